"""A schema registry for tests: the part of Confluent's HTTP interface that a reader of messages asks."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Registry:
    """A registry on a free port of the loopback, which counts what it is asked, and lets in `user` alone if there is one."""

    def __init__(self, authorization: str | None = None) -> None:
        self.schemas: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                status, answer = registry.answer(self.path, self.headers.get("Authorization"), authorization)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, number: int, schema: str, kind: str = "AVRO", references: list[dict[str, Any]] | None = None) -> None:
        """Let a schema have an id."""
        self.schemas[f"/schemas/ids/{number}"] = {
            "schema": schema,
            **({} if kind == "AVRO" else {"schemaType": kind}),
            "references": references or [],
        }

    def put_version(self, subject: str, version: int, schema: str, kind: str = "AVRO") -> None:
        """Let a schema be a version of a subject, to which others may refer."""
        self.schemas[f"/subjects/{subject}/versions/{version}"] = {"schema": schema, "schemaType": kind}

    def answer(self, path: str, given: str | None, wanted: str | None) -> tuple[int, dict[str, Any]]:
        """The status and the answer."""
        if wanted is not None and given != wanted:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        found = self.schemas.get(path)
        return (404, {"error_code": 40403, "message": "Schema not found"}) if found is None else (200, found)
