"""A PostgreSQL server for tests, started from the binaries that the machine has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import psutil

from tests.servers import Server

USER, PASSWORD = "miller", "grist@mill/7"
#: A URL needs what is not a letter written as its code.
QUOTED = "grist%40mill%2F7"
PATIENCE = 60.0


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    every = [*found, *([Path(on_path).resolve()] if on_path else [])]
    return every[-1].parent if every else None


class PostgreSQL(Server):
    """A server on a free port of the loopback, with a password; each of `database` is a new, empty one.

    It sorts text as English does, as servers are set up to, so that nothing relies on the order of bytes.
    """

    def __init__(self) -> None:
        super().__init__("postgresql")
        self._as: dict[str, Any] = {}
        self._numbers = count()

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self.stop()
        super().__exit__()

    def _make(self) -> None:
        if os.geteuid() == 0:  # the server refuses to run as root
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.folder, "postgres", "postgres")
        (self.folder / "password").write_text(PASSWORD)
        self._run("initdb", "-D", self._data, "-U", USER, "--pwfile", str(self.folder / "password"),
                  "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=icu",
                  "--icu-locale=en-US", "--no-sync", "--no-instructions")  # fmt: skip

    def start(self) -> None:
        """Start the server, on the port that it had, and wait until it answers."""
        from tests.end_to_end.running import free_port

        end = time.monotonic() + PATIENCE
        while True:
            self.port = self.port or free_port()
            arguments = ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off"]
            command = [str(self._program("postgres")), "-D", self._data, *arguments]
            self.process = self.run(command, cwd="/", **self._as)
            while self.process.poll() is None:
                if self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), check=False) == 0:
                    return
                time.sleep(0.05)
            if time.monotonic() > end:
                raise AssertionError(self.said())
            self.port = 0  # somebody else took it

    def stop(self) -> None:
        """Stop the server at once; what was committed is kept."""
        self.kill(signal.SIGQUIT)

    def crash(self) -> None:
        """Kill all of the server's processes at once; what the operating system was given to write is kept."""
        assert self.process is not None
        every = psutil.Process(self.process.pid).children(recursive=True)
        self.kill()
        for process in every:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(every, timeout=60)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop all of the server's processes where they are, for a while: connections are accepted, and nobody answers."""
        assert self.process is not None
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
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

        place = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        with psycopg.connect(user=USER, password=PASSWORD, autocommit=True, **place) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    @staticmethod
    def _program(name: str) -> Path:
        folder = programs()
        assert folder is not None
        return folder / name

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run([self._program(program), *arguments], capture_output=True, text=True, cwd="/", **self._as)
        assert not check or done.returncode == 0, done.stderr
        return done.returncode
