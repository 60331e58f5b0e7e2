"""The registry: definitions, the versions of feature groups, and which of them model versions pin."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from millstream.definitions.feature_view import FeatureView
from millstream.definitions.group_version import RETIRED, Group, GroupVersion
from millstream.definitions.model import Model
from millstream.definitions.serialise import data_of, fingerprint, revision_of
from millstream.errors import NotFound, PlanError, StoreError, nearest
from millstream.registry import pinning, tables
from millstream.registry.builds import Builds, builds_of
from millstream.registry.current import CurrentDefinitions, read_definition
from millstream.registry.differences import Definition
from millstream.registry.locks import Locks
from millstream.registry.marks import RegistryMarks
from millstream.registry.operations import Operations, note
from millstream.registry.plan import Change, Key, Known, Plan, closure, compare
from millstream.registry.presence import Presence

__all__ = ["STATES", "Change", "GroupVersion", "Plan", "Registry"]

STATES = ("new", "backfilling", "live", RETIRED)
_FLOOR = "version_floor"
_held, _versions, _facts = tables.definitions.c, tables.group_versions.c, tables.facts.c
_ALL_VERSIONS = sa.select(tables.group_versions).order_by(_versions.name, _versions.version)
_VERSIONS = _ALL_VERSIONS.where(_versions.name == sa.bindparam("group"))


class Registry(CurrentDefinitions):
    """What a project has agreed on: plan a change, apply it, then read what holds.

    Any number of processes share it; writes wait for each other.

    Args:
        url: an SQLAlchemy URL: a SQLite file, or a database such as PostgreSQL.
        shards: how many shards a new feature group gets, for life.

    Raises:
        CorruptState: when the database or a definition in it cannot be read as what was written.

    >>> import tempfile
    >>> from millstream import Entity
    >>> registry = Registry(f"sqlite:///{tempfile.mkdtemp()}/registry.db")
    >>> plan = registry.plan([Entity("user", keys={"user_id": "int64"})])
    >>> print(plan.text())
    1 to add
    <BLANKLINE>
    + entity user
        keys: user_id int64
    >>> [change.name for change in registry.apply(plan)]
    ['user']
    """

    def __init__(self, url: str, shards: int = 4) -> None:
        super().__init__(url)
        self._shards = shards
        self.builds = Builds(self._database)
        self.operations = Operations(self._database)
        self.marks = RegistryMarks(self._database)
        self.locks = Locks(self._database)
        self.presence = Presence(self._database)

    def plan(self, definitions: Iterable[Any], complete: bool = False) -> Plan:
        """What applying the definitions, and all they refer to, would change; nothing is written.

        `complete` says that they are all there is: what is not among them would be removed. A feature group whose
        values change gets a new version; one whose words change (owner, description, tags) does not. Raises
        `PlanError` for two different definitions of one name.
        """
        given = tuple(definitions)
        with self._database.reading() as connection:
            known = Known({}, {}, {}, {}) if connection is None else self._known(connection)
        return Plan(compare(closure(given), known, complete), given, complete)

    def apply(self, plan: Plan, allow_breaking: bool = False) -> list[Change]:
        """Do what a plan says, all of it or nothing, and return its changes.

        That the log has still to follow is noted among `operations`.

        Raises `PlanError` when a change would break what is in use and `allow_breaking` is not given, and when the
        registry is no longer as the plan found it.
        """
        if plan.breaking and not allow_breaking:
            first = plan.breaking[0]
            raise PlanError(
                f"Plan: {len(plan.breaking)} of its changes would break what is in use; {first.thing} '{first.name}': "
                f"{'; '.join(first.breaks)}.",
                "keep what is in use, or apply with --allow-breaking (`allow_breaking=True`).",
            )
        wanted = closure(plan.definitions)
        with self._database.writing() as connection:
            known = self._known(connection)
            if compare(wanted, known, plan.complete) != plan.changes:
                raise PlanError("Plan: the registry has changed since it was made.", "plan again, then apply.")
            for key, definition in wanted.items():
                self._keep(connection, known, key, definition)
            for change in plan.changes:
                if (change.thing, change.name) not in wanted:
                    _remove(connection, (change.thing, change.name))
            note(connection, "apply", "definitions", "make the topics of streams, and start new group versions")
        return list(plan.changes)

    def groups(self, state: str | None = None) -> list[GroupVersion]:
        """All versions in a state ("new", "backfilling", "live", "retired"), or those in use: all but the retired."""
        found = [version for version, _ in self._read_versions(None)]
        return [one for one in found if (one.state == state if state else one.state != RETIRED)]

    def group(self, name: str, version: int | None = None) -> GroupVersion:
        """A version of a feature group: by default the one that is read where nothing else is pinned.

        Raises `NotFound` when there is no such group or version.
        """
        found = {one.version: one for one, _ in self._read_versions(name)}
        if version is not None and version in found:
            return found[version]
        used = [one for one in found.values() if one.state != RETIRED]
        if version is None and used:
            return next((one for one in used if one.default), used[-1])
        if found and version is not None:
            raise NotFound.named(f"version of group '{name}'", str(version), map(str, found))
        raise NotFound.named("group", name, dict.fromkeys(one.group.name for one in self.groups()))

    def go_live(self, gv: str) -> bool:
        """Say that a version can be read, and read it by default if it is what its definition now comes to.

        The version that was read before is retired if nothing pins it. Returns whether the version is live: one that was
        retired meanwhile stays so. Raises `NotFound` when there is no such version.
        """
        with self._database.writing() as connection:
            name, version = pinning.existing(connection, gv)
            live = _one_version(name, version).where(_versions.state != RETIRED).values(state="live")
            if not connection.execute(live).rowcount:
                return False
            held = sa.select(_held.version).where(_is(("group", name)))
            if connection.execute(held).scalar() == version:
                _make_default(connection, name, version)
            pinning.retire_unused(connection, name)
        return True

    def go_on(self, revision: int, floor: int) -> None:
        """Go on in place of a registry that is lost: from a revision that it had, with no version number that it gave.

        Args:
            revision: the newest revision that anybody has gone by.
            floor: the greatest number of a group version that stores hold something of.
        """
        with self._database.writing() as connection:
            own = sa.select(_facts.value).where(_facts.name == "revision")
            before = int(connection.execute(own).scalar_one())
            newer = tables.facts.update().where(_facts.name == "revision")
            connection.execute(newer.values(value=max(before, revision + 1)))
            known = connection.execute(sa.select(_facts.value).where(_facts.name == _FLOOR)).scalar()
            connection.execute(tables.facts.delete().where(_facts.name == _FLOOR))
            connection.execute(tables.facts.insert().values(name=_FLOOR, value=max(known or 0, floor)))

    def set_state(self, gv: str, state: str) -> None:
        """Note where a version is: "new", "backfilling", "live" or "retired".

        Raises `NotFound` when there is no such version.
        """
        if state not in STATES:
            guess = nearest(state, STATES)
            raise StoreError(
                f"Group version '{gv}': state was given '{state}'; expected one of {', '.join(STATES)}.",
                f"did you mean '{guess}'?" if guess else None,
            )
        with self._database.writing() as connection:
            name, version = pinning.existing(connection, gv)
            connection.execute(_one_version(name, version).values(state=state))

    def pin(self, model_version: str, gvs: Sequence[str]) -> None:
        """Keep group versions for a model version, in place of those it pinned before; none lets all of them go.

        Raises `NotFound` for a version that does not exist, `StoreError` for one that is retired already.
        """
        with self._database.writing() as connection:
            pinning.pin(connection, model_version, gvs)

    def pins(self, gv: str) -> list[str]:
        """The model versions that pin a group version, sorted."""
        with self._database.reading() as connection:
            return [] if connection is None else list(pinning.pinned(connection).get(gv, ()))

    def _keep(self, connection: sa.Connection, known: Known, key: Key, definition: Definition) -> None:
        """Write a definition, and the version it comes to if it is a feature group."""
        body = _text(definition)
        version = None
        if isinstance(definition, Group):
            version, new = known.current(definition)
            if new:
                row = {
                    "name": definition.name,
                    "version": version,
                    "fingerprint": fingerprint(definition),
                    "body": body,
                }
                first = not any(
                    one.default and one.state != RETIRED for one, _ in known.versions.get(definition.name, ())
                )
                row |= {"state": "new", "is_default": first, "shards": self._shards}
                connection.execute(tables.group_versions.insert().values(**row))
            else:
                connection.execute(_one_version(definition.name, version).values(body=body))
                _read_again(connection, definition.name, version)
        if isinstance(definition, FeatureView):
            self._keep_revision(connection, definition, body)
        connection.execute(tables.definitions.delete().where(_is(key)))
        connection.execute(tables.definitions.insert().values(thing=key[0], name=key[1], body=body, version=version))
        if version is not None:
            pinning.retire_unused(connection, definition.name)
        if isinstance(definition, Model) and key not in known.definitions:
            pinning.restore(connection, definition.name)

    def _keep_revision(self, connection: sa.Connection, view: FeatureView, body: str) -> None:
        """Keep a view for good as it is now, because what it serves is recomputed by it."""
        held = tables.view_revisions.c
        mark = revision_of(view)
        ours = sa.and_(held.name == view.name, held.revision == mark)
        connection.execute(tables.view_revisions.delete().where(ours))
        connection.execute(tables.view_revisions.insert().values(name=view.name, revision=mark, body=body))

    def _known(self, connection: sa.Connection) -> Known:
        rows = connection.execute(sa.select(tables.definitions)).all()
        name = self._database.name
        held = {(row.thing, row.name): read_definition(name, f"{row.thing} '{row.name}'", row.body) for row in rows}
        versions: dict[str, list[tuple[GroupVersion, str]]] = defaultdict(list)
        for version, mark in self._all_versions(connection):
            versions[version.group.name].append((version, mark))
        return Known(
            held,
            {name: tuple(found) for name, found in versions.items()},
            pinning.pinned(connection),
            pinning.read_columns(connection),
            connection.execute(sa.select(_facts.value).where(_facts.name == _FLOOR)).scalar() or 0,
        )

    def _read_versions(self, name: str | None) -> Sequence[tuple[GroupVersion, str]]:
        return self._database.read(self._all_versions, name) or ()

    def _all_versions(self, connection: sa.Connection, name: str | None = None) -> tuple[tuple[GroupVersion, str], ...]:
        """All versions with their fingerprints, by name and number."""
        found, builds = [], builds_of(connection)
        for row in connection.execute(
            _ALL_VERSIONS if name is None else _VERSIONS, {} if name is None else {"group": name}
        ):
            gv = f"{row.name}@{row.version}"
            group = read_definition(self._database.name, f"group version '{gv}'", row.body)
            version = GroupVersion(
                group, row.version, row.state, row.is_default, row.shards, *builds.get(gv, (1, None))
            )
            found.append((version, row.fingerprint))
        return tuple(found)


def _text(definition: Definition) -> str:
    return json.dumps(data_of(definition), ensure_ascii=False, separators=(",", ":"))


def _is(key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(_held.thing == key[0], _held.name == key[1])


def _one_version(name: str, version: int) -> sa.Update:
    return tables.group_versions.update().where(_versions.name == name, _versions.version == version)


def _make_default(connection: sa.Connection, name: str, version: int) -> None:
    ours = tables.group_versions.update().where(_versions.name == name)
    connection.execute(ours.values(is_default=sa.case((_versions.version == version, True), else_=False)))


def _read_again(connection: sa.Connection, name: str, version: int) -> None:
    """Read by default a version to which a definition came back, if it is live or nothing else is read."""
    found = sa.select(_versions.version, _versions.state, _versions.is_default).where(_versions.name == name)
    used = [row for row in connection.execute(found) if row.state != RETIRED]
    live = any(row.version == version and row.state == "live" for row in used)
    if live or not any(row.is_default for row in used):
        _make_default(connection, name, version)


def _remove(connection: sa.Connection, key: Key) -> None:
    """Remove a definition, and what it alone keeps; a group version that a model version pins can still be read."""
    connection.execute(tables.definitions.delete().where(_is(key)))
    if key[0] == "group":
        ours = tables.group_versions.update().where(_versions.name == key[1])
        connection.execute(ours.values(is_default=False))
        pinning.retire_unused(connection, key[1])
    if key[0] == "model":
        pinning.release(connection, key[1])
