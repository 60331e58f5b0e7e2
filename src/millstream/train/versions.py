"""Model versions: immutable and numbered, with movable aliases and a record of every move.

The artefact is kept first and its row in the registry's database after, so a version that is listed can be loaded.
Loading checks the artefact's hash and scores its sample again.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from millstream.clock import Clock
from millstream.errors import CorruptState, NotFound, RequestError, shown
from millstream.registry import tables
from millstream.registry.database import Database
from millstream.train import artefacts
from millstream.train.encoding import Encoder
from millstream.train.metrics import Interval
from millstream.train.trainers.trainer import Artefact, Predictor

if TYPE_CHECKING:
    from sqlalchemy import Row

    from millstream.store.s3 import ObjectFolder

Floats = NDArray[np.float64]

Pin = Callable[[sa.Connection, str, Sequence[str]], None]
Keep = Callable[[str, Mapping[str, int]], None]
Unfit = Callable[[int], str | None]

_SAMPLE = 256  # rows kept beside a model with their scores
_ROLLED_BACK = "rolled back"  # how the reason of a move begins that went back
_CLOSE = 1e-9  # another processor's `exp` may differ in the last bits
_versions, _aliases, _moves = tables.model_versions.c, tables.model_aliases.c, tables.model_moves.c
_VERSIONS = tables.model_versions.select().where(_versions.model == sa.bindparam("of")).order_by(_versions.version)
_ALIASES = tables.model_aliases.select().where(_aliases.model == sa.bindparam("of"))
_MOVES = tables.model_moves.select().where(_moves.model == sa.bindparam("of")).order_by(_moves.id)


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a model, and everything needed to say how it came about.

    Attributes:
        model, version: its name, and its number from 1.
        digest: hash of the artefact's content.
        registered: when it was registered, in microseconds.
        metrics: what it measured on rows it had not seen.
        pins: group versions it reads, as "group@1"; they are kept while it exists.
        facts: the training set it came from (snapshots, positions, times) and the gate's evidence.
    """

    model: str
    version: int
    digest: str
    registered: int
    metrics: Mapping[str, Interval] = field(default_factory=dict)
    pins: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The version's name in full, "fraud@3"."""
        return f"{self.model}@{self.version}"

    @property
    def examples(self) -> int:
        """How many examples it learnt from; 0 for a model that was fitted elsewhere."""
        return int(self.facts.get("matured", 0))


@dataclass(frozen=True)
class LoadedModel:
    """A model version in memory, ready to score; may be used by several threads at once."""

    about: ModelVersion
    encoder: Encoder
    predictor: Predictor

    @property
    def version(self) -> int:
        """The version's number."""
        return self.about.version

    @property
    def pins(self) -> tuple[str, ...]:
        """The group versions the model reads."""
        return self.about.pins

    @property
    def columns(self) -> tuple[str, ...]:
        """The model's input columns in order."""
        return self.encoder.columns

    @property
    def dictionaries(self) -> Mapping[str, tuple[str, ...]]:
        """The frozen values of each string column."""
        return self.encoder.dictionaries

    def score(self, columns: Mapping[str, NDArray[Any]]) -> Floats:
        """Return one score per row of the view's columns; a single row takes the quick call, to the same bits."""
        if len(columns[self._first]) != 1:
            return self.predictor.predict(self.encoder.matrix(columns))
        row = np.empty(len(self.columns))
        self.encoder.fill(row, columns)
        return np.array([self.predictor.predict_one(row)])

    @cached_property
    def _first(self) -> str:
        return self.columns[0]


class ModelVersions:
    """The versions of all models of a project, in the registry's database and a folder of artefacts.

    Training registers, deployment moves aliases, scoring loads. "champion" is the version that answers, "challenger"
    one that would like to.

    Args:
        where: the registry's database: its SQLAlchemy URL, or the one that the registry has open.
        folder: where artefacts are kept.
        clock: the project's clock.
        pin: called with the transaction that registers or names a version, its id and the group versions it reads, so
            that the registry keeps those.
        keep: called with a version's id and, by offline table, the snapshot that it learnt from, so that those stay
            readable.

    Raises:
        StoreError: the database cannot be used.
    """

    def __init__(
        self,
        where: str | Database,
        folder: Path | ObjectFolder,
        clock: Clock,
        *,
        pin: Pin | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._database = Database(where) if isinstance(where, str) else where
        self._folder = folder
        self._clock = clock
        self._pin, self._keep = pin, keep
        self._database.make()

    def close(self) -> None:
        """Let go of the database's connections; what is asked next opens its own."""
        self._database.close()

    def register(
        self,
        model: str,
        artefact: Artefact,
        *,
        sample: pa.Table | None = None,
        metrics: Mapping[str, Interval] | None = None,
        pins: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Keep a fitted model as the next version of `model`; no alias moves.

        Args:
            model: the model's name.
            artefact: what a trainer fitted, or a model fitted elsewhere.
            sample: rows of the view's columns; the first 256 are kept with their scores and checked at every load.
            metrics: its metrics on rows it had not seen.
            pins: group versions it reads.
            facts: JSON-able facts about where it came from.

        Raises:
            TrainingError: the artefact cannot be loaded, or is of other columns than its encoder.
            MillstreamError: a group version cannot be pinned; nothing is registered then.
        """
        predictor = artefact.predictor()
        matrix = np.empty((0, predictor.columns))
        if sample is not None:
            matrix = artefact.encoder.matrix(sample.slice(0, _SAMPLE))
        digest = artefacts.keep(self._folder / model, artefact, matrix, predictor.predict(matrix))
        found = ModelVersion(model, 0, digest, self._clock.now(), dict(metrics or {}), tuple(pins), dict(facts or {}))
        return self._insert(found, artefact.encoder.columns)

    def alias(self, model: str, alias: str, version: int, *, reason: str = "") -> None:
        """Let an alias name another version from now on; the move and its reason are recorded.

        Args:
            model: the model's name.
            alias: "champion" or "challenger".
            version: the version that it names.
            reason: why it moves, for who reads the moves later.

        Raises:
            NotFound: the model has no such version.
            StoreError: a group version that it reads is retired; the alias stays where it was.
        """
        about = self.version(model, version)
        move = {"model": model, "alias": alias, "version": about.version, "at": self._clock.now(), "reason": reason}
        ours = (_aliases.model == model) & (_aliases.alias == alias)
        with self._database.writing() as connection:
            if self._pin:
                self._pin(connection, about.id, about.pins)
            previous = connection.execute(sa.select(_aliases.version).where(ours)).scalar()
            connection.execute(tables.model_aliases.delete().where(ours))
            connection.execute(tables.model_aliases.insert().values(model=model, alias=alias, version=about.version))
            connection.execute(tables.model_moves.insert().values(**move, previous=previous))

    def rollback(
        self, model: str, alias: str = "champion", *, reason: str = "by hand", unfit: Unfit = lambda version: None
    ) -> ModelVersion:
        """Let `alias` name the version it named before this one, and return that; again goes one further back.

        Args:
            model: the model.
            alias: the alias to move.
            reason: why; it is recorded with the move.
            unfit: says why a version cannot be named now, None when it can; such a version is passed over, and the
                record of the move says so.

        Raises:
            NotFound: there was none before, or none that can be named.
        """
        passed: dict[int, str] = {}
        for version in self._named_before(model, alias):
            why = unfit(version)
            if why is None:
                over = [f"passed over version {other}, {said}" for other, said in passed.items()]
                self.alias(model, alias, version, reason=f"{_ROLLED_BACK} {'; '.join([reason, *over])}")
                return self.version(model, version)
            passed[version] = why
        raise _nothing_before(model, alias, passed)

    def _named_before(self, model: str, alias: str) -> list[int]:
        """The versions that an alias named before the one it names, the newest first, each once.

        Naming a version adds to the history; rolling back takes away what came after the version it went back to.
        """
        named: list[int] = []
        for move in self.moves(model):
            version = move["version"]
            if move["alias"] != alias or named[-1:] == [version]:
                continue
            if move["reason"].startswith(_ROLLED_BACK) and version in named:
                named = named[: len(named) - named[::-1].index(version)]
            else:
                named.append(version)
        return [version for version in dict.fromkeys(reversed(named)) if version != named[-1]]

    def aliases(self, model: str) -> dict[str, int]:
        """Return the version each alias of the model names."""
        return {row.alias: row.version for row in self._database.rows(_ALIASES, of=model)}

    def moves(self, model: str) -> list[dict[str, Any]]:
        """Return every move of the model's aliases, oldest first: alias, version, previous, at (µs), reason."""
        rows = self._database.rows(_MOVES, of=model)
        return [{name: value for name, value in row._mapping.items() if name != "id"} for row in rows]

    def versions(self, model: str) -> list[ModelVersion]:
        """Return the model's versions, oldest first; none for a model that was never trained."""
        return [_version(row) for row in self._database.rows(_VERSIONS, of=model)]

    def version(self, model: str, which: str | int) -> ModelVersion:
        """Return the version of that number or alias.

        Raises:
            NotFound: the model has no such version, or nothing has that alias.
            RequestError: `which` is neither a whole number nor an alias.
        """
        aliases = self.aliases(model)
        named = isinstance(which, str) and not which.isdecimal()
        number = aliases.get(str(which)) if named else _whole(model, which)
        known = {version.version: version for version in self.versions(model)}
        if number in known:
            return known[number]
        raise _no_version(model, which, sorted(known), aliases)

    def load(self, model: str, which: str | int = "champion") -> LoadedModel:
        """Return a version ready to score, checked against its hash and its sample.

        Raises:
            NotFound: the model has no such version or alias.
            CorruptState: the artefact is absent or changed, or no longer gives the scores it gave.
        """
        about = self.version(model, which)
        artefact, matrix, scores = artefacts.read(self._folder / model, about.digest, f"Model version '{about.id}'")
        predictor = artefact.predictor()
        again = predictor.predict(matrix)
        if not np.allclose(again, scores, rtol=_CLOSE, atol=_CLOSE):
            raise CorruptState(
                f"Model version '{about.id}' no longer gives the scores it was registered with: they differ by up to "
                f"{np.abs(again - scores).max():g}.",
                hint="use the library version it was trained with, or train it again.",
            )
        return LoadedModel(about, artefact.encoder, predictor)

    def _insert(self, version: ModelVersion, columns: Sequence[str]) -> ModelVersion:
        """Insert the version's row under the next free number, with all that it pins, in one transaction."""
        record = {
            "columns": list(columns),
            "metrics": {name: [m.value, m.low, m.high] for name, m in version.metrics.items()},
            "pins": version.pins,
            "facts": version.facts,
        }
        values = {
            "model": version.model,
            "digest": version.digest,
            "registered": version.registered,
            "record": json.dumps(record),
        }
        taken = sa.select(sa.func.max(_versions.version)).where(_versions.model == version.model)
        with self._database.writing() as connection:
            number = (connection.execute(taken).scalar() or 0) + 1
            connection.execute(tables.model_versions.insert().values(**values, version=number))
            inserted = replace(version, version=number)
            if self._pin:
                self._pin(connection, inserted.id, inserted.pins)
            if self._keep:
                self._keep(inserted.id, inserted.facts.get("pins", {}).get("snapshots", {}))
        return inserted


def _version(row: Row[Any]) -> ModelVersion:
    record = json.loads(row.record)
    metrics = {name: Interval(*bounds) for name, bounds in record["metrics"].items()}
    return ModelVersion(
        row.model, row.version, row.digest, row.registered, metrics, tuple(record["pins"]), record["facts"]
    )


def _whole(model: str, which: object) -> int:
    """A version's number as the registry keeps it, from whatever whole number it was given as."""
    if not isinstance(which, bool | np.bool_):
        with suppress(TypeError):
            return int(which) if isinstance(which, str) else operator.index(which)  # type: ignore[arg-type]
    raise RequestError(
        f"Model '{model}': version was given {shown(which)}; expected a whole number.",
        field="version",
        given=repr(which),
        expected="a whole number",
        hint="`millstream status` shows how many versions a model has; they are numbered from 1.",
    )


def _nothing_before(model: str, alias: str, passed: Mapping[int, str]) -> NotFound:
    over = "; ".join(f"version {version}: {why}" for version, why in passed.items())
    return NotFound(
        f"Model '{model}' has no {alias} before this one" + (f" that can serve: {over}" if over else "."),
        field="version",
        given=alias,
        expected="an alias that has moved",
        hint=f"deploy a version by its number: `millstream deploy {model} VERSION`.",
    )


def _no_version(model: str, which: str | int, numbers: Sequence[int], aliases: Mapping[str, int]) -> NotFound:
    if numbers:
        known = [str(number) for number in numbers] + list(aliases)
        return NotFound.named(f"version of model '{model}'", str(which), known)
    return NotFound(
        f"Model '{model}' has no version yet.",
        field="version",
        given=which,
        expected="a version that was trained",
        hint=f"run `millstream train {model}` first.",
    )
