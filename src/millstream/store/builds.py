"""The builds of a group version's states: one is read, another may be made beside it, and what was read before goes.

States are never computed anew in place: readers would see parts of history. A rebuild has a number and a place of its
own in the online store, is cut over to in one write of the registry, and the build before it is dropped when those who
read it have had the time to look again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from millstream.errors import StoreError
from millstream.store import tables
from millstream.store.pinning import existing
from millstream.store.plan import states_name

BUILDING, READ, REPLACED, LEAVING = "building", "read", "replaced", "leaving"
_builds = tables.builds.c


@dataclass(frozen=True)
class Replaced:
    """A build that is not read any more.

    Attributes:
        gv: the group version.
        build: its number.
        leaving: whether that has been noted once before, so that nobody reads it still.
    """

    gv: str
    build: int
    leaving: bool

    @property
    def states(self) -> str:
        """The name of its states in the online store."""
        return states_name(self.gv, self.build)


class Builds:
    """Which builds of states there are, kept in the registry.

    Args:
        database: the registry's.
    """

    def __init__(self, database: tables.Database) -> None:
        self._database = database

    def begin(self, gv: str) -> int:
        """Note that a build is made beside the one that is read, and return its number; one under way goes on.

        Raises `NotFound` when there is no such version, `StoreError` when it is retired.
        """
        with self._database.writing() as connection:
            name, version = existing(connection, gv, in_use=True)
            rows = _rows(connection, name, version)
            for build, state in rows.items():
                if state == BUILDING:
                    return build
            if not rows:
                _insert(connection, name, version, 1, READ)
            number = max(rows, default=1) + 1
            _insert(connection, name, version, number, BUILDING)
            return number

    def cut_over(self, gv: str, build: int) -> None:
        """Let the build that was made be read from now on, in one write. Raises `StoreError` when it is not there."""
        with self._database.writing() as connection:
            name, version = existing(connection, gv, in_use=True)
            state = _rows(connection, name, version).get(build)
            if state == READ:
                return  # whoever else has finished it was first
            if state != BUILDING:
                raise StoreError(
                    f"Group version '{gv}': build {build} is not being made.",
                    f"run `millstream backfill {name}` again.",
                )
            _move(connection, name, version, READ, REPLACED)
            _move(connection, name, version, BUILDING, READ)

    def replaced(self) -> list[Replaced]:
        """The builds that are not read any more and have not been dropped."""
        query = sa.select(tables.builds).where(_builds.state.in_((REPLACED, LEAVING)))
        with self._database.reading() as connection:
            rows = [] if connection is None else connection.execute(query).all()
        return [Replaced(f"{row.name}@{row.version}", row.build, row.state == LEAVING) for row in rows]

    def let_go(self, replaced: Replaced) -> None:
        """Note that nobody should read a replaced build any more; the next time it can be dropped."""
        self._note(replaced, tables.builds.update().values(state=LEAVING))

    def dropped(self, replaced: Replaced) -> None:
        """Note that a replaced build is gone from the online store."""
        self._note(replaced, tables.builds.delete())

    def _note(self, replaced: Replaced, change: sa.Update | sa.Delete) -> None:
        name, _, version = replaced.gv.rpartition("@")
        ours = sa.and_(
            _builds.name == name, _builds.version == int(version), _builds.build == replaced.build,
            _builds.state.in_((REPLACED, LEAVING)),
        )  # fmt: skip
        with self._database.writing() as connection:
            connection.execute(change.where(ours))


def builds_of(connection: sa.Connection) -> Mapping[str, tuple[int, int | None]]:
    """For each group version that was ever rebuilt, the build that is read and the one that is made, if one is."""
    found: dict[str, tuple[int, int | None]] = {}
    for row in connection.execute(sa.select(tables.builds)):
        gv = f"{row.name}@{row.version}"
        read, made = found.get(gv, (1, None))
        if row.state in (READ, BUILDING):
            found[gv] = (row.build, made) if row.state == READ else (read, row.build)
    return found


def _rows(connection: sa.Connection, name: str, version: int) -> dict[int, str]:
    query = sa.select(_builds.build, _builds.state).where(_builds.name == name, _builds.version == version)
    return {row.build: row.state for row in connection.execute(query)}


def _insert(connection: sa.Connection, name: str, version: int, build: int, state: str) -> None:
    row = {"name": name, "version": version, "build": build, "state": state}
    connection.execute(tables.builds.insert().values(**row))


def _move(connection: sa.Connection, name: str, version: int, before: str, after: str) -> None:
    ours = tables.builds.update().where(_builds.name == name, _builds.version == version, _builds.state == before)
    connection.execute(ours.values(state=after))
