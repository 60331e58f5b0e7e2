"""The definitions that hold now, as every layer reads them from the registry."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from millstream.definitions.feature_view import FeatureView
from millstream.definitions.model import Model
from millstream.definitions.serialise import from_dict, revision_of
from millstream.definitions.source import EventStream, Table
from millstream.errors import CorruptState, MillstreamError, NotFound
from millstream.registry import tables
from millstream.registry.database import Database

_held, _earlier = tables.definitions.c, tables.view_revisions.c
_REVISION = sa.select(tables.facts.c.value).where(tables.facts.c.name == "revision")
_IDENTITY = sa.select(tables.facts.c.value).where(tables.facts.c.name == "identity")
_DEFINITIONS = sa.select(_held.name, _held.body).where(_held.thing == sa.bindparam("kind")).order_by(_held.name)
_REVISIONS = sa.select(_earlier.revision, _earlier.body).where(_earlier.name == sa.bindparam("view"))


class CurrentDefinitions:
    """The streams, tables, views and models of a registry, as they were last applied.

    Args:
        url: an SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    @property
    def database(self) -> Database:
        """The registry's database, for what else is kept in it: who shares it shares its connection to a file."""
        return self._database

    def close(self) -> None:
        """Let go of the database's connections; what is asked next opens its own."""
        self._database.close()

    def revision(self) -> int:
        """A number that grows with every change of the registry, so that a reader knows when to read again."""
        return self._database.read(_revision, single=True) or 0

    def identity(self) -> int:
        """A number that tells the registry from any other; 0 while it has not been made."""
        with self._database.reading() as connection:
            if connection is None:
                return 0
            known = connection.execute(_IDENTITY).scalar()
        return self._database.identify() if known is None else int(known)

    def streams(self) -> list[EventStream]:
        """The event streams, by name."""
        return self._all("stream")

    def tables(self) -> list[Table]:
        """The tables, by name."""
        return self._all("table")

    def views(self) -> list[FeatureView]:
        """The feature views, by name."""
        return self._all("view")

    def models(self) -> list[Model]:
        """The models, by name."""
        return self._all("model")

    def stream(self, name: str) -> EventStream:
        """An event stream; raises `NotFound` when there is none of that name."""
        found: EventStream = self._one("stream", name)
        return found

    def view(self, name: str, revision: str | None = None) -> FeatureView:
        """A feature view, as it is now or as an earlier revision had it; raises `NotFound` when there is none."""
        found: FeatureView = self._one("view", name) if revision is None else self._earlier(name, revision)
        return found

    def model(self, name: str) -> Model:
        """A model; raises `NotFound` when there is none of that name."""
        found: Model = self._one("model", name)
        return found

    def _earlier(self, name: str, revision: str) -> FeatureView:
        rows = self._database.rows(_REVISIONS, view=name)
        kept = {row.revision: read_definition(self._database.name, f"view '{name}'", row.body) for row in rows}
        found: FeatureView | None = kept.get(revision)
        if found is None:  # an earlier release may have given it another mark
            found = next((view for view in kept.values() if revision_of(view) == revision), None)
        if found is None:
            raise NotFound.named(f"revision of view '{name}'", revision, kept)
        return found

    def _all(self, thing: str) -> list[Any]:
        rows = self._database.rows(_DEFINITIONS, kind=thing)
        return [read_definition(self._database.name, f"{thing} '{row.name}'", row.body) for row in rows]

    def _one(self, thing: str, name: str) -> Any:
        bodies = {row.name: row.body for row in self._database.rows(_DEFINITIONS, kind=thing)}
        if name not in bodies:
            raise NotFound.named(thing, name, bodies)
        return read_definition(self._database.name, f"{thing} '{name}'", bodies[name])


def _revision(connection: sa.Connection) -> int:
    return int(connection.execute(_REVISION).scalar_one())


def read_definition(registry: str, what: str, body: str) -> Any:
    """The definition that was written as a text.

    Args:
        registry: the registry's name, for the error.
        what: what was written, such as "view 'fraud'", for the error.
        body: the text.

    Raises:
        CorruptState: when it is no definition.
    """
    try:
        return _parsed(body)
    except (ValueError, TypeError, KeyError, AttributeError, MillstreamError) as error:
        reason = error.message if isinstance(error, MillstreamError) else str(error)
        message = f"Registry '{registry}': {what} does not read as what was written: {reason.rstrip('.')}."
        raise CorruptState(message, "restore the registry from a copy; nothing in it was changed.") from error


@lru_cache(maxsize=1024)
def _parsed(body: str) -> Any:
    """Building a definition checks its SQL again, so each text is read once."""
    return from_dict(json.loads(body))
