"""Which processes of a project run, on whatever hosts: each says so in the registry's database, where that is a server's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from millstream.clock import Clock
from millstream.errors import MillstreamError
from millstream.registry import tables
from millstream.registry.database import Database

KEPT = 3_600.0
"""Seconds for which a process that says nothing any more is still told of."""
_columns = tables.processes.c
_NOW = sa.func.clock_timestamp()
#: The server alone says what time it is: the hosts need not agree.
_SILENT = sa.extract("epoch", _NOW - _columns.said).label("silent")


@dataclass(frozen=True)
class Present:
    """What a process said last.

    Attributes:
        place: where it runs, as it says itself.
        silent: seconds since it said so.
        facts: what it said.
    """

    place: str
    silent: float
    facts: dict[str, Any]


class Presence:
    """What the processes of a project say of themselves, in PostgreSQL, for whoever asks on any host.

    A registry that was made before there was a table for it gets one when a process first has something to say.

    Args:
        database: the registry's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made = self._found = False

    @property
    def shared(self) -> bool:
        """Whether there is anything to say to other hosts: a registry in a file is of one."""
        return self._database.backend == "postgresql"

    def say(self, process: str, place: str, facts: Mapping[str, Any]) -> None:
        """Say how a process is; its last word replaces the one before.

        Args:
            process: tells it from all others, for as long as it lives.
            place: where it runs.
            facts: anything that JSON can hold.

        Raises:
            StoreError: when the database cannot be asked.
        """
        told = {"place": place, "facts": json.dumps(dict(facts)), "said": _NOW}
        row = postgresql.insert(tables.processes).values(process=process, **told)
        with self._database.connected() as connection, self._database.naming():
            if not self._made:
                tables.processes.create(connection, checkfirst=True)
                connection.execute(sa.delete(tables.processes).where(_SILENT.element > KEPT))
                self._made = True
            connection.execute(row.on_conflict_do_update(index_elements=["process"], set_=told))

    def ahead(self, clock: Clock) -> int:
        """By how many microseconds at least a clock is ahead of the server's; behind it where that is below 0.

        Args:
            clock: the clock, which is asked before and after the server is.

        Raises:
            StoreError: when the database cannot be asked.
        """
        with self._database.connected() as connection, self._database.naming():
            before = clock.now()
            server = int(connection.execute(sa.select(sa.extract("epoch", _NOW) * 1_000_000)).scalar_one())
            after = clock.now()
        return max(before - server, 0) + min(after - server, 0)

    def leave(self, process: str) -> None:
        """Say that a process has ended as it was told to; who died says nothing, and is told of for an hour.

        Raises:
            StoreError: when the database cannot be asked.
        """
        with self._database.connected() as connection, self._database.naming():
            connection.execute(sa.delete(tables.processes).where(_columns.process == process))

    def all(self) -> list[Present]:
        """What was said in the last hour, by place and process; nothing while the database cannot be asked."""
        if not self.shared:
            return []
        query = sa.select(_columns.place, _columns.facts, _SILENT).order_by(_columns.place, _columns.process)
        try:
            with self._database.reading() as connection:
                if connection is None:
                    return []
                self._found = self._found or sa.inspect(connection).has_table(tables.processes.name)
                if not self._found:
                    return []
                rows = connection.execute(query.where(_SILENT.element <= KEPT)).all()
        except MillstreamError:
            return []
        return [Present(row.place, max(float(row.silent), 0.0), json.loads(row.facts)) for row in rows]
