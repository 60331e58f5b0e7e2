"""Which group versions are kept, and for which model versions; every change is part of somebody's transaction."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from millstream.definitions.group_version import RETIRED
from millstream.errors import NotFound, StoreError
from millstream.registry import tables

_held, _versions, _pins = tables.definitions.c, tables.group_versions.c, tables.pins.c
_models = tables.model_versions.c


def existing(connection: sa.Connection, gv: str, in_use: bool = False) -> tuple[str, int]:
    """The name and the number of a group version.

    Args:
        connection: the transaction in which it is looked for.
        gv: the group version, such as "habits@2".
        in_use: whether a retired one is refused.

    Raises:
        NotFound: when there is no such version.
        StoreError: when it is to be in use and is not.
    """
    states = {f"{row.name}@{row.version}": row for row in connection.execute(sa.select(tables.group_versions))}
    if gv not in states:
        raise NotFound.named("group version", gv, states)
    row = states[gv]
    if in_use and row.state == RETIRED:
        raise StoreError(f"Group version '{gv}' is retired; its states are gone.", "use a version that is live.")
    return row.name, row.version


def pin(connection: sa.Connection, model_version: str, gvs: Sequence[str]) -> None:
    """Keep group versions for a model version, in place of those it pinned before.

    Args:
        connection: the transaction that this is part of.
        model_version: the model version, such as "fraud@3".
        gvs: the group versions, such as "habits@2"; none lets all of them go.

    Raises:
        NotFound: when there is no such version.
        StoreError: when one of them is retired.
    """
    kept = [existing(connection, gv, in_use=True) for gv in dict.fromkeys(gvs)]
    before = connection.execute(sa.select(_pins.group_name).where(_pins.model_version == model_version))
    released = {row.group_name for row in before}
    connection.execute(tables.pins.delete().where(_pins.model_version == model_version))
    for name, version in kept:
        row = {"model_version": model_version, "group_name": name, "group_version": version}
        connection.execute(tables.pins.insert().values(**row))
    for name in released:
        retire_unused(connection, name)


def release(connection: sa.Connection, model: str) -> None:
    """Let go of what the versions of a model pinned: it is no longer declared, so none of them can be deployed."""
    ours = [row for row in connection.execute(sa.select(tables.pins)) if row.model_version.rpartition("@")[0] == model]
    for row in ours:
        connection.execute(tables.pins.delete().where(_pins.model_version == row.model_version))
    for name in {row.group_name for row in ours}:
        retire_unused(connection, name)


def restore(connection: sa.Connection, model: str) -> None:
    """Pin what the versions of a model read, where that is still there: the model is declared again."""
    versions = {f"{row.name}@{row.version}": row for row in connection.execute(sa.select(tables.group_versions))}
    for one in connection.execute(sa.select(_models.version, _models.record).where(_models.model == model)):
        found = [versions[gv] for gv in json.loads(one.record)["pins"] if gv in versions]
        if all(row.state != RETIRED for row in found):
            pin(connection, f"{model}@{one.version}", [f"{row.name}@{row.version}" for row in found])


def pinned(connection: sa.Connection) -> Mapping[str, tuple[str, ...]]:
    """By group version, the model versions that pin it."""
    found = defaultdict(list)
    for row in connection.execute(sa.select(tables.pins).order_by(_pins.model_version)):
        found[f"{row.group_name}@{row.group_version}"].append(row.model_version)
    return {gv: tuple(models) for gv, models in found.items()}


def read_columns(connection: sa.Connection) -> Mapping[str, tuple[str, ...] | None]:
    """By model version, the columns it reads; None for one that was registered when they were not recorded."""
    found: dict[str, tuple[str, ...] | None] = {}
    for row in connection.execute(sa.select(_models.model, _models.version, _models.record)):
        columns = json.loads(row.record).get("columns")
        found[f"{row.model}@{row.version}"] = None if columns is None else tuple(columns)
    return found


def retire_unused(connection: sa.Connection, name: str) -> None:
    """Retire the versions that are neither read by default, nor pinned, nor what the definition now comes to."""
    held = sa.and_(_held.thing == "group", _held.name == name)
    wanted = connection.execute(sa.select(_held.version).where(held)).scalar()
    kept = sa.select(_pins.group_version).where(_pins.group_name == name)
    unused = sa.and_(_versions.is_default.is_(False), _versions.version.not_in(kept))
    if wanted is not None:
        unused = sa.and_(unused, _versions.version != wanted)
    connection.execute(tables.group_versions.update().where(_versions.name == name, unused).values(state=RETIRED))
