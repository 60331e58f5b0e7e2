"""The builds of a group version's states: one is read, another may be made beside it, and what was read before goes.

States are never computed anew in place: readers would see parts of history. A rebuild has a number and a place of its
own in the online store, is cut over to in one write of the registry, and the build before it is dropped when those who
read it have had the time to look again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from millstream.definitions.group_version import RETIRED, states_name
from millstream.errors import StoreError
from millstream.registry import tables
from millstream.registry.database import Database
from millstream.registry.pinning import existing

BUILDING, READ, REPLACED, LEAVING, DROPPED = "building", "read", "replaced", "leaving", "dropped"
_builds, _versions = tables.builds.c, tables.group_versions.c
_RETIRED = sa.select(_versions.name, _versions.version).where(_versions.state == RETIRED)
_BUILDS = sa.select(tables.builds).order_by(_builds.build)


@dataclass(frozen=True)
class Unused:
    """States that nobody reads any more: a build that was replaced, or all builds of a retired group version.

    Attributes:
        gv: the group version.
        builds: their numbers.
        whole: whether the version is retired, so that its topics and tables are unused too.
        leaving: whether that was noted some time ago, so that nobody who read them before does so still.
    """

    gv: str
    builds: tuple[int, ...]
    whole: bool
    leaving: bool

    @property
    def states(self) -> list[str]:
        """The names of the builds in the online store."""
        return [states_name(self.gv, build) for build in self.builds]


class Builds:
    """Which builds of states there are, kept in the registry.

    Args:
        database: the registry's.
    """

    def __init__(self, database: Database) -> None:
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
            rows = _rows(connection, name, version)
            state = rows.get(build)
            if state == READ:
                return  # whoever else has finished it was first
            if state != BUILDING:
                raise StoreError(
                    f"Group version '{gv}': build {build} is not being made.",
                    f"run `millstream backfill {name}` again.",
                )
            for before in (number for number, its in rows.items() if its == READ):
                _move(connection, name, version, before, REPLACED)
            _move(connection, name, version, build, READ)

    def unused(self) -> list[Unused]:
        """What nobody reads any more and has not been dropped."""
        return list(self._database.read(_unused) or ())

    def let_go(self, unused: Unused) -> None:
        """Note that nobody should read states any more; when this is found the next time they can be dropped."""
        self._note(unused, LEAVING)

    def dropped(self, unused: Unused) -> None:
        """Note that states are gone from the online store."""
        self._note(unused, DROPPED)

    def _note(self, unused: Unused, state: str) -> None:
        name, _, version = unused.gv.rpartition("@")
        with self._database.writing(counted=False) as connection:
            known = _rows(connection, name, int(version))
            for build in unused.builds:
                if build not in known:
                    _insert(connection, name, int(version), build, state)
                elif unused.whole or known[build] in (REPLACED, LEAVING):
                    _move(connection, name, int(version), build, state)


def _unused(connection: sa.Connection) -> tuple[Unused, ...]:
    found = {(row.name, row.version): dict[int, str]() for row in connection.execute(_RETIRED)}
    single: list[Unused] = []
    for row in connection.execute(_BUILDS):
        if (row.name, row.version) in found:
            found[row.name, row.version][row.build] = row.state
        elif row.state in (REPLACED, LEAVING):
            single.append(Unused(f"{row.name}@{row.version}", (row.build,), False, row.state == LEAVING))
    whole = [_retired(*version, rows) for version, rows in found.items() if set(rows.values()) != {DROPPED}]
    return (*single, *whole)


def _retired(name: str, version: int, rows: Mapping[int, str]) -> Unused:
    leaving = bool(rows) and set(rows.values()) <= {LEAVING, DROPPED}
    return Unused(f"{name}@{version}", tuple(rows) or (1,), True, leaving)


def builds_of(connection: sa.Connection) -> Mapping[str, tuple[int, int | None]]:
    """For each group version that was ever rebuilt, the build that is read and the one that is made, if one is."""
    found: dict[str, tuple[int, int | None]] = {}
    for row in connection.execute(_BUILDS):
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


def _move(connection: sa.Connection, name: str, version: int, build: int, state: str) -> None:
    ours = sa.and_(_builds.name == name, _builds.version == version, _builds.build == build)
    connection.execute(tables.builds.update().where(ours).values(state=state))
