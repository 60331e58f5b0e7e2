"""Marks in the registry: where group versions begin, what builds are to reach, and how far schedules are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from millstream.errors import Fenced
from millstream.registry import tables
from millstream.registry.database import Database

_columns, _facts = tables.marks.c, tables.facts.c
_ADOPTED = "marks"  # the fact that what was kept elsewhere before there were marks has been taken over
_ADOPTION = sa.select(_facts.value).where(_facts.name == _ADOPTED)
_OF = sa.select(_columns.place, _columns.number).where(_columns.mark == sa.bindparam("of")).order_by(_columns.place)


class RegistryMarks:
    """The marks of a project, kept in its registry; see the protocol `Marks`.

    Args:
        database: the registry's.

    Example:
        >>> import tempfile
        >>> from millstream.registry.database import Database
        >>> marks = RegistryMarks(Database(f"sqlite:///{tempfile.mkdtemp()}/registry.db"))
        >>> marks.move("start/habits@1", {}, {"payments/0": 7})
        >>> marks.read("start/habits@1")
        {'payments/0': 7}
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, mark: str) -> dict[str, int]:
        """Return the numbers of a mark by place; none when it was never set."""
        return dict(self._database.read(_held, mark, single=True) or {})

    def move(self, mark: str, known: Mapping[str, int], to: Mapping[str, int | None]) -> None:
        """Set the numbers of some places of a mark, all of them or none; see `Marks.move`."""
        with self._database.writing(counted=False) as connection:
            held = _held(connection, mark)
            for place in to:
                if held.get(place) != known.get(place):
                    raise Fenced.moved(f"mark '{mark}' at '{place}'", known.get(place), held.get(place))
            _put(connection, mark, held, to)

    def drop(self, names: Iterable[str]) -> None:
        """Drop marks of what is no more; those that are not there are no error."""
        with self._database.writing(counted=False) as connection:
            connection.execute(sa.delete(tables.marks).where(_columns.mark.in_(list(names))))

    def rebase(self, bases: Mapping[str, int]) -> None:
        """Move every mark at a place to the position at which its partition begins anew.

        Args:
            bases: the positions by "topic/partition".
        """
        with self._database.writing(counted=False) as connection:
            for place, base in bases.items():
                connection.execute(sa.update(tables.marks).where(_columns.place == place).values(number=base))

    @property
    def adopted(self) -> bool:
        """Whether what was kept elsewhere before there were marks has been taken over."""
        return bool(self._database.rows(_ADOPTION))

    def adopt(self, before: Mapping[str, Mapping[str, int]]) -> None:
        """Take over what was kept elsewhere before there were marks; done once, whoever else does it too.

        Args:
            before: by name of a mark, its numbers by place; marks that are there already stay as they are.
        """
        with self._database.writing(counted=False) as connection:
            if connection.execute(_ADOPTION).scalar() is not None:
                return
            for mark, numbers in before.items():
                held = _held(connection, mark)
                _put(connection, mark, held, {} if held else numbers)
            connection.execute(tables.facts.insert().values(name=_ADOPTED, value=1))


def _held(connection: sa.Connection, mark: str) -> dict[str, int]:
    return {row.place: row.number for row in connection.execute(_OF, {"of": mark})}


def _put(connection: sa.Connection, mark: str, held: Mapping[str, int], to: Mapping[str, int | None]) -> None:
    changed = {place: number for place, number in to.items() if held.get(place) != number}
    if before := [place for place in changed if place in held]:
        connection.execute(sa.delete(tables.marks).where(_columns.mark == mark, _columns.place.in_(before)))
    rows = [{"mark": mark, "place": place, "number": n} for place, n in changed.items() if n is not None]
    if rows:
        connection.execute(tables.marks.insert(), rows)
