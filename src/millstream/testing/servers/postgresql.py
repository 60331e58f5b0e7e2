"""A PostgreSQL server, started from the binaries that the machine has."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from millstream.errors import ServerError
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.server import PATIENCE, Server

USER, PASSWORD = "miller", "grist@mill/7"
#: A URL needs what is not a letter written as its code.
QUOTED = "grist%40mill%2F7"
#: As whom it runs where we are root, as which it refuses to.
OWNER = "postgres"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    every = [*found, *([Path(on_path).resolve()] if on_path else [])]
    return every[-1].parent if every else None


class PostgreSQL(Server):
    """A server with a password; each of `database` is a new, empty one.

    It sorts text as English does, as servers are set up to, so that nothing relies on the order of bytes. It does not wait
    for the disk: what is committed outlives the death of its processes, not that of the machine.
    """

    name = "PostgreSQL"
    ended_by = signal.SIGQUIT  # after which it leaves no shared memory behind

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count()

    @classmethod
    def lacking(cls) -> str | None:
        """What this machine lacks for the server; see `Server`."""
        if find_spec("psycopg") is None:
            return "`make servers` installs the package psycopg, or `pip install 'millstream[servers]'`."
        if programs() is None:
            return "`make servers` as root installs it, or `apt-get install postgresql`."
        if os.geteuid() == 0 and OWNER not in {one.pw_name for one in pwd.getpwall()}:
            return f"it refuses to run as root: be another user, or `useradd {OWNER}`."
        return None

    @classmethod
    def version(cls) -> str:
        """The version of the server's program."""
        said = subprocess.run(
            [cls._program("postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"\) (\S+)", said)
        return found[1] if found else said.strip()

    def _make(self) -> None:
        super()._make()
        self._given = {"cwd": "/"}
        if os.geteuid() == 0:
            self._given |= {"user": OWNER, "group": OWNER, "extra_groups": []}
            shutil.chown(self.folder, OWNER, OWNER)
        (self.folder / "password").write_text(PASSWORD)
        made = self.run([
            str(self._program("initdb")), "-D", self._data, "-U", USER, "--pwfile", str(self.folder / "password"),
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US",
            "--no-sync", "--no-instructions",
        ], **self._given)  # fmt: skip
        if made.wait(PATIENCE) != 0:
            raise ServerError.silent(self.name, self.said())

    def _command(self) -> list[str]:
        if not self._answered:
            self.port = free_port()
        arguments = ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off"]
        return [str(self._program("postgres")), "-D", self._data, *arguments]

    def _answers(self) -> bool:
        command = [str(self._program("pg_isready")), "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, capture_output=True, **self._given).returncode == 0

    def stop(self) -> None:
        """Stop the server at once; what was committed is kept."""
        self.kill(self.ended_by)

    def crash(self) -> None:
        """Kill all of the server's processes at once; what the operating system was given to write is kept."""
        _, *others = self.processes()
        self.kill()
        for process in others:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(others, timeout=60)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop all of the server's processes where they are, for a while: connections are accepted, and nobody answers."""
        every = self.processes()
        for process in every:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in every:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def database(self, user: str = f"{USER}:{QUOTED}") -> str:
        """The URL of a new database; without a password where `user` has none."""
        name = f"registry_{next(self._numbers)}"
        self.execute(f"create database {name}")
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the server's owner, and return its rows."""
        import psycopg

        place: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        with psycopg.connect(user=USER, password=PASSWORD, autocommit=True, **place) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    @staticmethod
    def _program(name: str) -> Path:
        return (programs() or Path()) / name
