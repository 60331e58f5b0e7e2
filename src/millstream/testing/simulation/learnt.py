"""What must hold of a training set: its examples, their features and their labels are what was acknowledged and known."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from millstream.definitions.feature_group import StreamFeatureGroup
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.source import EventStream
from millstream.project.compute import compute
from millstream.testing.simulation.declared import ASKS, OUTCOMES, parts_of
from millstream.train.training_set import LABEL, MATURED

if TYPE_CHECKING:
    from millstream.definitions.group_version import GroupVersion
    from millstream.project.parts import Parts
    from millstream.testing.simulation.ledger import Landed
    from millstream.testing.simulation.world import World
    from millstream.train.training_set import TrainingSet

AFTER = 3_600_000_000
"""How long (µs) after an example its label is awaited."""


def right(world: World, parts: Parts, found: TrainingSet) -> set[float]:
    """Hold a training set to what landed; returns the labels that there are to learn from.

    Args:
        world: the world, which knows what landed.
        parts: the project that made the set.
        found: the training set.

    Raises:
        AssertionError: when an example, a feature or a label is another.
    """
    examples = [one for one in world.ledger.counted(ASKS) if one.arrival <= found.now and one.row["at"] <= found.now]
    wanted: dict[str, list[Any]] = {name: [one.row[name] for one in examples] for name in ("k", "other")}
    wanted["_at"] = [one.row["at"] for one in examples]
    wanted[LABEL], wanted[MATURED] = _labels(world, examples, found.now)
    notes = [one.row["note"] for one in examples]
    for read in parts.registry.model("model").view.groups:
        version = parts.served.versions()[read.group.name]
        if not isinstance(version.group, StreamFeatureGroup):
            continue  # what a query's runs stated depends on when they ran
        name = next(iter(version.group.entity.keys))
        asked = zip(wanted[read.keys[0][1]], notes, wanted["_at"], strict=True)
        rows = [{name: key, "note": note, "at": at} for key, note, at in asked]
        columns = _computed(world, version, rows, found)
        wanted |= {
            one.column: parts_of(columns[f"{read.group.name}__{one.feature}"], one)
            for one in read.columns
            if one.default is None
        }
    table = found.table.select(list(wanted)).to_pydict()
    _same(table, wanted)
    return {label for label, matured in zip(wanted[LABEL], wanted[MATURED], strict=True) if matured}


def _same(found: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> None:
    """Examples come in the order of history, so they are told by what they hold."""
    has, should = (Counter(map(repr, zip(*one.values(), strict=True))) for one in (found, wanted))
    if has == should:
        return
    lacking, more = list((should - has).elements())[:2], list((has - should).elements())[:2]
    raise AssertionError(f"a training set is computed: of {list(wanted)} it has {more}, not {lacking}")


def _labels(world: World, examples: list[Landed], now: int) -> tuple[list[float | None], list[bool]]:
    """The label of each example as it is known now, and whether the example has matured."""
    newest: dict[str, tuple[tuple[int, int, int, int], Any]] = {}
    for one in world.ledger.counted(OUTCOMES):
        rank = (one.row["at"], one.arrival, one.partition, one.place)
        if one.arrival <= now and (one.row["ask"] not in newest or rank > newest[one.row["ask"]][0]):
            newest[one.row["ask"]] = rank, one.row["y"]
    values, matured = list[float | None](), list[bool]()
    for one in examples:
        due = one.row["at"] + AFTER <= now
        told = newest[one.row["ask"]][1] if one.row["ask"] in newest else (False if due else None)
        values.append(None if told is None else float(told))
        matured.append(due and told is not None)
    return values, matured


def _computed(
    world: World, version: GroupVersion, rows: list[dict[str, Any]], found: TrainingSet
) -> dict[str, list[Any]]:
    """The features of some requests, each at an instant, from the events that serving would have had by then."""
    delay = found.pins.delays[version.id]
    given: dict[Any, Any] = {
        source.name: world.ledger.frame(source, delay=delay)
        for source in version.group.sources
        if isinstance(source, EventStream)
    }
    view = FeatureView("computed", request={"note": "string"}, features=[version.group])
    columns: dict[str, list[Any]] = compute(view, given, rows).to_pydict() if rows else {}
    return columns if rows else {f"{version.group.name}__{one}": [] for one in version.schema}
