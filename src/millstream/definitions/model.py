"""Models: what is learnt from which examples, by which trainer, and how often again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Literal

from millstream.calls import checked_class, whole
from millstream.definitions.durations import Duration, micros
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.frozen import check_about, check_name, freeze
from millstream.definitions.schedule import check_every
from millstream.definitions.schema import TYPES, element_of, require_column
from millstream.definitions.source import EventStream
from millstream.errors import DefinitionError

OBJECTIVES = ("binary", "regression")
#: What a model can be measured by: first what fits a binary objective, then what fits a regression.
METRICS = {
    "binary": ("auc", "average_precision", "log_loss", "brier", "precision_at_100"),
    "regression": ("rmse", "mae"),
}


@checked_class
@dataclass(frozen=True, init=False)
class Label:
    """What an example turned out to be: a column of a stream that is known later than the example.

    Args:
        stream: the stream that tells it.
        column: its column with the label, a number or a boolean.
        on: the column in which an example and its label have equal values.
        absent: what an example without a label is labelled once `after` has passed; None: it is not trained on.
        after: how long after its time an example is mature, 30 days unless given.

    Raises:
        DefinitionError: for an unknown column, or a label that is neither a number nor a boolean.

    >>> from millstream import EventStream, Label
    >>> disputes = EventStream("disputes", time="paid_at", available="decided_at", schema={"payment_id": "string",
    ...     "is_fraud": "bool", "paid_at": "timestamp", "decided_at": "timestamp"})
    >>> Label(disputes, "is_fraud", on="payment_id", absent=False).after
    2592000000000
    """

    stream: EventStream
    column: str
    on: str
    absent: bool | int | float | None
    after: int

    def __init__(
        self,
        stream: EventStream,
        column: str,
        *,
        on: str,
        absent: bool | int | float | None = None,
        after: Duration = "30d",
    ) -> None:
        if not isinstance(stream, EventStream):
            raise DefinitionError.expected("Label", "stream", stream, "an EventStream")
        require_column(f"Label of '{stream.name}'", stream.schema, column, "column", ("bool", "int64", "float64"))
        thing = f"Label '{stream.name}.{column}'"
        require_column(thing, stream.schema, on, "on", TYPES)
        if absent is not None and hasattr(absent, "item"):  # NumPy's numbers are numbers
            absent = absent.item()
        if absent is not None and not (isinstance(absent, Real) and isfinite(absent)):
            raise DefinitionError.expected(thing, "absent", absent, "a number, a boolean or None")
        freeze(self, stream=stream, column=column, on=on, absent=absent, after=micros(after, thing, "after"))


_BOUNDS = {"rounds": (1, 100_000), "leaves": (2, 131_072), "min_rows": (1, 10**9), "seed": (0, 2**31 - 1)}


@checked_class
@dataclass(frozen=True, kw_only=True)
class LightGBM:
    """Gradient-boosted trees by LightGBM: the trainer to begin with, for it takes nulls and unequal scales as they are.

    Equal data and an equal seed give an equal model.

    Args:
        rounds: how many trees, 200 unless given.
        leaves: the most leaves of each, 63 unless given.
        learning_rate: the weight of each, above 0 and at most 1; 0.05 unless given.
        min_rows: the fewest examples of a leaf, 20 unless given.
        seed: what chance is drawn from, 0 unless given.
        objective: "binary", unless given, for a label of two values, "regression" for a number.

    Raises:
        DefinitionError: for a value out of range.

    >>> LightGBM(rounds=100).leaves
    63
    """

    rounds: int = 200
    leaves: int = 63
    learning_rate: float = 0.05
    min_rows: int = 20
    seed: int = 0
    objective: Literal["binary", "regression"] = "binary"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise DefinitionError.unknown_choice("LightGBM", "objective", self.objective, OBJECTIVES)
        for name, (low, high) in _BOUNDS.items():
            freeze(self, **{name: whole("LightGBM", name, getattr(self, name), low, high)})
        rate = self.learning_rate
        if not isinstance(rate, Real) or isinstance(rate, bool) or not 0 < rate <= 1:
            raise DefinitionError.expected("LightGBM", "learning_rate", rate, "a number above 0 and at most 1")
        freeze(self, learning_rate=float(rate))


#: What a model may be trained by. Each says its `objective`; what fits by it is of the same name among the trainers.
TRAINERS: tuple[type, ...] = (LightGBM,)


@checked_class
@dataclass(frozen=True, init=False)
class Retrain:
    """How often a model is trained again, and what a challenger must not be worse at to become champion.

    Args:
        every: a duration, "24h" unless given, or a cron line such as "0 2 * * *".
        gate: a metric, "average_precision" unless given, measured for both on the newest matured
            examples; None promotes every challenger.
        zone: the time zone of a cron line, "UTC" unless given.

    Raises:
        DefinitionError: for a bad schedule, or an unknown metric.

    >>> Retrain(every="24h").gate
    'average_precision'
    """

    every: int | None
    cron: str | None = field(init=False)
    gate: str | None
    zone: str

    def __init__(self, *, every: Duration = "24h", gate: str | None = "average_precision", zone: str = "UTC") -> None:
        names = [name for metrics in METRICS.values() for name in metrics]
        if gate is not None and gate not in names:
            raise DefinitionError.unknown_choice("Retrain", "gate", gate, names)
        interval, cron = check_every("Retrain", every, zone)
        freeze(self, every=interval, cron=cron, gate=gate, zone=zone)


@checked_class
@dataclass(frozen=True, init=False)
class Model:
    """A model: the view it reads, the examples and label it learns from, and its trainer.

    Args:
        name: its name.
        view: the features it reads.
        examples: a stream whose events are the examples (its columns give the entity keys and request fields), or
            "captures", what has been served.
        label: what they turned out to be.
        trainer: what fits it.
        example_at: the timestamp column of `examples` with the instant to read features at; that of `time` unless given.
        retrain: when it is trained again; never unless given.
        metrics: what is measured on the newest examples; all that fit the trainer's objective unless given.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: when the examples lack a key, a request field or the label's `on` column.

    >>> from millstream import Entity, EventStream, FeatureView, Label, Last, Model, StreamFeatureGroup
    >>> user = Entity("user", keys={"user_id": "int64"})
    >>> offers = EventStream("offers", time="at", schema={"user_id": "int64", "price": "float64", "taken": "bool",
    ...     "id": "string", "at": "timestamp"})
    >>> taste = StreamFeatureGroup("taste", entity=user, source=offers, features=[Last("price")])
    >>> view = FeatureView("offers", request={"price": "float64"}, features=[taste])
    >>> Model("offers", view=view, examples=offers, label=Label(offers, "taken", on="id", after="1h")).metrics
    ('auc', 'average_precision', 'log_loss', 'brier', 'precision_at_100')
    """

    name: str
    view: FeatureView
    trainer: LightGBM
    examples: EventStream | Literal["captures"]
    label: Label
    example_at: str | None
    retrain: Retrain | None
    metrics: tuple[str, ...]
    owner: str
    description: str
    tags: tuple[str, ...]

    def __init__(
        self,
        name: str,
        *,
        view: FeatureView,
        examples: EventStream | Literal["captures"],
        label: Label,
        trainer: LightGBM | None = None,
        example_at: str | None = None,
        retrain: Retrain | None = None,
        metrics: Iterable[str] = (),
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"Model '{check_name('Model', name)}'"
        for argument, value, kind in (("view", view, FeatureView), ("label", label, Label)):
            if not isinstance(value, kind):
                raise DefinitionError.expected(thing, argument, value, f"a {kind.__name__}")
        trainer = LightGBM() if trainer is None else trainer
        if not isinstance(trainer, TRAINERS):
            raise DefinitionError.expected(thing, "trainer", trainer, "a trainer, such as ms.LightGBM()")
        _check_lists(thing, view)
        _check_examples(thing, view, examples, label, example_at)
        if retrain is not None and not isinstance(retrain, Retrain):
            raise DefinitionError.expected(thing, "retrain", retrain, 'a Retrain, such as ms.Retrain(every="24h")')
        if not isinstance(metrics, Iterable) or isinstance(metrics, str):
            raise DefinitionError.expected(thing, "metrics", metrics, "a list of names", 'write metrics=["auc"].')
        wanted = tuple(metrics) or METRICS[trainer.objective]
        gate = [retrain.gate] if retrain is not None and retrain.gate else []
        for metric in (*wanted, *gate):
            if metric not in METRICS[trainer.objective]:
                raise DefinitionError.unknown_choice(thing, "metric", metric, METRICS[trainer.objective])
        freeze(self, name=name, view=view, trainer=trainer, examples=examples, label=label, example_at=example_at)
        freeze(self, retrain=retrain, metrics=wanted, **check_about(thing, owner, description, tags))


def _check_lists(thing: str, view: FeatureView) -> None:
    """Refuse a list of which nothing is made: not spread, no array, no argument; it would be no input of any model."""
    read = {name for feature in view.on_demand for name in feature.arguments}
    for entry in view.entries:
        if element_of(entry.dtype) and not entry.size and entry.column not in read:
            group = entry.group.name if entry.group else ""
            hint = f"list {group}[\"{entry.feature}\"].spread() among the features of view '{view.name}', "
            hint += "or .to_array(pad=...) for a model of sequences that is fitted elsewhere."
            raise DefinitionError.wrong_type(thing, f"'{entry.column}'", entry.dtype, "a number or a string", hint)


def _check_examples(thing: str, view: FeatureView, examples: object, label: Label, example_at: str | None) -> None:
    if isinstance(examples, str) and examples == "captures":
        if example_at is not None:
            raise DefinitionError.expected(thing, "example_at", example_at, "nothing, for a capture has its own time")
        return
    if not isinstance(examples, EventStream):
        hint = 'write examples=payments, or examples="captures".'
        raise DefinitionError.expected(thing, "examples", examples, 'an EventStream or "captures"', hint)
    schema = examples.schema
    needed: Mapping[str, str] = {**view.entity_keys, **view.request}
    for name, kind in needed.items():
        require_column(thing, schema, name, f"examples '{examples.name}'", (kind,))
    require_column(thing, schema, label.on, f"examples '{examples.name}'", (label.stream.schema[label.on],))
    if example_at is not None:
        require_column(thing, schema, example_at, "example_at", ("timestamp",))
