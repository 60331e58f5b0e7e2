"""Scoring: rows of keys and request fields to scores, with everything that a capture of them needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from millstream.definitions.list_columns import Maps
from millstream.definitions.schema import element_of, is_object
from millstream.definitions.serialise import revision_of
from millstream.definitions.whole_numbers import floats
from millstream.errors import ServeError
from millstream.serve.capture import CaptureShape
from millstream.serve.found import GroupFacts
from millstream.serve.reader import FeatureReader
from millstream.serve.request import RequestSchema

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.definitions import Model
    from millstream.serve.request import Rows
    from millstream.train.versions import LoadedModel


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored row.

    Attributes:
        score: what the model says.
        at: the instant (µs) as of which its features were read.
        received_at: when the request was received (µs).
        values: the captured columns, in the order of the scorer's `shape`.
        groups: what each group's values were read from, by group name with its prefix.
        rest: fields of the request that nothing declares.
    """

    score: float
    at: int
    received_at: int
    values: list[Any]
    groups: dict[str, GroupFacts]
    rest: dict[str, Any] | None

    @property
    def degraded(self) -> bool:
        """Whether a group could not be read, so that nulls and defaults stand for its features."""
        return any(facts.fallback for facts in self.groups.values())

    def features(self, shape: CaptureShape) -> dict[str, Any]:
        """The captured columns by name."""
        return {name: value for (name, _), value in zip(shape.columns, self.values, strict=True)}


class Scorer:
    """One model version, ready to score. Safe for any number of threads.

    Raises `ServeError` when the model was trained on columns that its view no longer has.
    """

    def __init__(self, model: Model, loaded: LoadedModel, reader: FeatureReader, clock: Clock) -> None:
        view = reader.view
        missing = [name for name in loaded.columns if name not in view.columns or name in reader.absent]
        if missing:
            raise ServeError(
                f"Model version '{loaded.about.id}' reads '{missing[0]}', which view '{view.name}' no longer has.",
                f"run `millstream train {model.name}`, or restore the view.",
            )
        self.model, self.loaded = model, loaded
        self.reader = reader
        self.schema = RequestSchema(view, label_keys(model))
        self._clock = clock
        declared = self.schema.types
        columns = [name for name in view.columns if name not in declared]
        kept = {name for name in columns if is_object(view.dtypes[name]) or element_of(view.dtypes[name])}
        kinds = {name: view.dtypes[name] if name in kept else "float64" for name in columns}
        captured = (*declared.items(), *((name, kinds[name]) for name in columns))
        self.shape = CaptureShape(model.name, str(loaded.version), view.name, revision_of(model.view), captured)
        self.counter = f'scored{{model="{model.name}",version="{loaded.version}"}}'
        self._fields, self._columns = tuple(declared), tuple(columns)
        self._kept = frozenset(kept)

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[Scored]:
        """Return the scores of rows, in order; a row's `at` is now unless it says.

        Raises `RequestError` when a row does not hold what the view needs.
        """
        now = self._clock.now()
        parsed = self.schema.parse(rows, now)
        read = self.reader.read(parsed.values, parsed.at)
        scores = self.loaded.score(read.columns).tolist()
        if len(scores) == 1:
            return [self._one(scores[0], parsed, read.columns, read.facts, now)]
        values = [parsed.values[name] for name in self._fields]
        values += [self._captured(name, read.columns[name]).tolist() for name in self._columns]
        rows_of_values = [list(row) for row in zip(*values, strict=True)]
        groups = [dict(zip(read.facts, row, strict=True)) for row in zip(*read.facts.values(), strict=True)]
        groups = groups or [{} for _ in scores]
        return [
            Scored(score, at, now, row, facts, rest)
            for score, at, row, facts, rest in zip(
                scores, parsed.at.tolist(), rows_of_values, groups, parsed.rest, strict=True
            )
        ]

    def _one(
        self,
        score: float,
        parsed: Rows,
        columns: Mapping[str, np.ndarray],
        facts: Mapping[str, list[GroupFacts]],
        now: int,
    ) -> Scored:
        values = [parsed.values[name][0] for name in self._fields]
        values += [self._captured(name, columns[name]).item(0) for name in self._columns]
        groups = {name: found[0] for name, found in facts.items()}
        return Scored(score, int(parsed.at[0]), now, values, groups, parsed.rest[0])

    def _captured(self, name: str, column: np.ndarray) -> np.ndarray:
        """A column as captures keep it: numbers are float64, so that a feature may become another kind of number.

        Maps are lists of their entries, so that a key keeps its type.
        """
        if isinstance(column, Maps):
            return column.lists()
        return floats(column) if column.dtype == object and name not in self._kept else column

    def capture(self, request_id: str, scored: Scored) -> list[Any]:
        """Return a scored row as a row for the capture journal, of this scorer's `shape`."""
        shape = self.shape
        fixed = [
            scored.groups, request_id, shape.model, shape.version, shape.view, shape.revision,
            scored.at, scored.received_at, scored.score, scored.degraded, _json(scored.rest),
        ]  # fmt: skip
        return fixed + scored.values


def label_keys(model: Model) -> dict[str, str]:
    """Return the column, with its type, by which a label finds the request that it is about."""
    label = model.label
    return {label.on: label.stream.schema[label.on]}


def _json(rest: Mapping[str, Any] | None) -> str | None:
    return msgspec.json.encode(rest).decode() if rest else None
