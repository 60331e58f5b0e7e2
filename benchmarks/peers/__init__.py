"""The peers that need an environment of their own: each is a process that is told, line by line, what to measure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parent.parent / ".bench"
_PACKAGES = {
    "feast": ("feast==0.67.0", "pandas<3"),
    "bytewax": ("bytewax==0.21.1", "msgspec", "datasketches==5.2.0"),
    "ddsketch": ("ddsketch==3.0.1",),
    "quix_kafka": ("quixstreams==3.28.1",),
    "bytewax_kafka": ("bytewax[kafka]==0.21.1", "msgspec", "confluent-kafka==2.16.1"),
}


class Peer:
    """A running peer. Requests and answers are JSON, one a line; `ask` waits for the answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **request: Any) -> Any:
        """Send a request and return its answer.

        Raises:
            RuntimeError: when the peer has died; its own words are on stderr.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"answer":'):  # a peer's libraries print too
                return json.loads(line)["answer"]
        raise RuntimeError(f"The peer has ended with code {self._process.wait()} at {request}.")


def open_events(bytewax: Peer, path: Path, events: pa.Table) -> None:
    """Give bytewax payments as JSON lines; its keys have to be strings, so they are."""
    place = events.schema.get_field_index("user_id")
    events = events.set_column(place, "user_id", events["user_id"].cast(pa.string()))
    path.write_bytes(msgspec.json.Encoder().encode_lines(events.to_pylist()))
    bytewax.ask(do="open", path=str(path))


@contextmanager
def peer(name: str) -> Iterator[Peer]:
    """Run `{name}_peer.py` in the environment `.bench/{name}`, which is made if it is missing."""
    python = _environment(name)
    script = _HERE / f"{name}_peer.py"
    with subprocess.Popen([python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Peer(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.terminate()


def _environment(name: str) -> str:
    folder = _ENVIRONMENTS / name
    python = folder / "bin" / "python"
    ready = folder / "ready"
    wanted = " ".join(_PACKAGES[name])
    if not ready.exists() or ready.read_text() != wanted:
        print(f"Making {folder} with {wanted}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *_PACKAGES[name]], check=True)
        ready.write_text(wanted)
    return str(python)
