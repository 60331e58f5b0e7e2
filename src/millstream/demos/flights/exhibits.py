"""Two models to compare with: one that knows no history, and one whose history leaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.definitions.serialise import from_dict, to_dict
from millstream.train.encoding import numbers
from millstream.train.metrics import auc
from millstream.train.point_in_time import AT, join
from millstream.train.trainers.trainer import fit
from millstream.train.training_set import LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from millstream.definitions import FeatureView, Model
    from millstream.fold import Prepared
    from millstream.train.stored_history import Stored
    from millstream.train.trainers.trainer import Artefact
    from millstream.train.training_set import TrainingSet

#: The inputs that are known without any history.
STATIC = ("carrier", "origin", "dest", "distance", "hour", "weekday")


@dataclass(frozen=True)
class Leak:
    """What a leaky join promises offline, and what the same model delivers on what was served."""

    offline: float
    online: float


def static_auc(model: Model, learnt: TrainingSet, served: pa.Table, labels: np.ndarray) -> float:
    """The AUC, on what was served, of a model that was given the static inputs alone.

    Args:
        model: the demo's model, whose trainer is used.
        learnt: the training set of its first version.
        served: the captures of the season.
        labels: the label of each of them.
    """
    artefact = _fitted(model, learnt.matured(), {name: learnt.dtypes[name] for name in STATIC})
    return auc(labels, _scores(artefact, served))


def leak(model: Model, learnt: TrainingSet, served: pa.Table, labels: np.ndarray, past: Stored) -> Leak:
    """A model trained on windows over *scheduled* times, which is when a careless join thinks that flights happen.

    Args:
        model: the demo's model.
        learnt: the training set of its first version; its examples are joined again, carelessly.
        served: the captures of the season, on which both are measured.
        labels: the label of each of them.
        past: where the events come from.
    """
    view = _scheduled(model.view)
    careless = _Careless(past)
    rows = learnt.matured()
    joined = join(view, rows, careless)
    artefact = _fitted(model, joined.append_column(LABEL, rows[LABEL]), dict(learnt.dtypes))
    examples = served.select(list(dict.fromkeys([*view.entity_keys, *view.request]))).append_column(AT, served["_at"])
    promised = auc(labels, _scores(artefact, join(view, examples, careless)))
    return Leak(promised, auc(labels, _scores(artefact, served)))


def _fitted(model: Model, rows: pa.Table, dtypes: Mapping[str, str]) -> Artefact:
    return fit(model.trainer, rows, numbers(rows[LABEL]), dtypes)


def _scores(artefact: Artefact, rows: pa.Table) -> np.ndarray:
    return artefact.predictor().predict(artefact.encoder.matrix(rows))


def _scheduled(view: FeatureView) -> FeatureView:
    """The same view over streams whose event time is the scheduled one."""

    def patched(part: Any) -> Any:
        if isinstance(part, dict):
            found = {name: patched(value) for name, value in part.items()}
            return found | {"time": "scheduled_at"} if part.get("time") in ("departed_at", "landed_at") else found
        return [patched(one) for one in part] if isinstance(part, (list, tuple)) else part

    result: FeatureView = from_dict(patched(to_dict(view)))
    return result


class _Careless:
    """History as a careless join sees it: every event was known when it was scheduled."""

    def __init__(self, past: Stored) -> None:
        self._past = past

    def group(self, group: Any) -> Any:
        """The careless definition itself, once the stored one has given the types of a query's columns."""
        known = self._past.group(group)
        return known if getattr(group, "query", None) else group

    def rows(self, group: Any, where: Any = ()) -> Iterable[pa.Table]:
        """The rows that queries stated."""
        return self._past.rows(group, where)

    def events(self, source: Any) -> pa.Table:
        """The events, known when they were scheduled."""
        table = self._past.events(source)
        place = table.column_names.index("_arrival")
        return table.set_column(place, "_arrival", table["scheduled_at"].cast(pa.int64()))

    def available(self, group: Any, events: Prepared) -> np.ndarray:
        """When serving is thought to have had the events."""
        return events.arrivals
