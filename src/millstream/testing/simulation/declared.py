"""What the simulated team declares, and what it may change later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import millstream as ms
from millstream.definitions.feature_view import ViewColumn
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.schema import element_of

KEY = ms.Entity("key", keys={"k": "int64"})
EVENT = {"id": "string", "k": "int64", "other": "int64", "x": "float64", "s": "string", "ok": "bool",
         "at": "timestamp", "seen": "timestamp"}  # fmt: skip
OUTCOMES = ms.EventStream("outcomes", time="at", schema={"ask": "string", "y": "bool", "at": "timestamp"})
ASKS = ms.EventStream("asks", time="at", schema={
    "ask": "string", "k": "int64", "other": "int64", "amount": "float64", "note": "string", "at": "timestamp"})  # fmt: skip
ACCOUNTS = ms.Table("accounts", path="accounts.parquet", time="at", delay="10m",
                    schema={"k": "int64", "x": "float64", "s": "string", "at": "timestamp"})  # fmt: skip
EVERY = "30m"
_ARRAYS, _PADS = ("newest1", "newest3"), {"x": -1.0, "ok": False}
QUERIES = {
    "dated": ('select k, "at", x, s from accounts', "at"),
    "state": ("select k, max(x) as top, max_by(s, x) as s from accounts group by k", None),
    "spent": ('select k, sum(x) as x from accounts where "at" >= :start and "at" < :end group by k', None),
}


@dataclass(frozen=True)
class Declared:
    """What a project declares; two that differ in one thing are what a team wrote before and after a change.

    Without the group "o" it is `bare`.
    """

    windows: tuple[tuple[str | ms.Session | None, str, str | None], ...]
    where: str | None = None
    derived: str = "x * 2"
    union: bool = False
    deduplicate: bool = True
    extra: bool = False
    queries: tuple[tuple[str, str | None], ...] = ()
    folded: bool = False
    by_other: bool = False
    factor: int = 2
    strings: bool = True
    bare: bool = False

    @property
    def events(self) -> ms.EventStream:
        """The stream that everything reads."""
        more = {"extra": "string"} if self.extra else {}
        repeats = "id" if self.deduplicate else None
        return ms.EventStream("events", time="at", available="seen", deduplicate=repeats, within="1h", retention="2h",
                              partition_by="id", schema=EVENT | more)  # fmt: skip

    @property
    def groups(self) -> list[Any]:
        """Every feature group."""
        return [self._main(), *self._others(), *self._batch()]

    def _others(self) -> list[Any]:
        return [] if self.bare else [self._other()]

    def _batch(self) -> list[Any]:
        found: list[Any] = []
        if self.folded:
            folds = [ms.Sum("x", over="1h"), ms.Last("s"), ms.Count(over=["10m", None])]
            found.append(ms.BatchFeatureGroup("fold", entity=KEY, source=ACCOUNTS, every=EVERY, features=folds))
        for name, ttl in self.queries:
            query, time = QUERIES[name]
            found.append(ms.BatchFeatureGroup(name, entity=KEY, sources=[ACCOUNTS], every=EVERY, query=query, time=time,
                                              ttl=ttl))  # fmt: skip
        return found

    def _main(self) -> Any:
        more = ms.EventStream("more", time="at", available="seen", retention="2h", schema=EVENT)
        features: list[Any] = []
        for n, (drawn, delay, hop) in enumerate(self.windows):
            over = None if self.union and isinstance(drawn, ms.Session) else drawn
            common: dict[str, Any] = {"over": over, "delay": delay, "hop": hop}
            features += [
                ms.Count(name=f"n{n}", **common), ms.Count(name=f"ok{n}", where="ok", **common),
                ms.Sum("x", name=f"sum{n}", **common), ms.Std("d", name=f"std{n}", **common),
                ms.Last("s", name=f"s{n}", **common), ms.TimeSince(name=f"since{n}", **common),
                ms.Share(where="ok", name=f"part{n}", **common), ms.Correlation("x", "d", name=f"corr{n}", **common),
                ms.SumBy("ok", "x", k=2, name=f"by{n}", **common),
                ms.LastK(["x", "ok"], k=2, name=f"newest{n}", **common),
                ms.CountBy("s", request="note", name=f"noted{n}", **common),
            ]  # fmt: skip
        return ms.StreamFeatureGroup("g", entity=KEY, source=[self.events, more] if self.union else self.events,
                                     where=self.where, derive={"d": self.derived}, features=features)  # fmt: skip

    def _other(self) -> Any:
        return ms.StreamFeatureGroup("o", entity=KEY, source=self.events, keys={"k": "other"},
                                     features=[ms.Count(over="10m"), ms.First("s"), ms.Max("x", over="1h")])  # fmt: skip

    @property
    def view(self) -> ms.FeatureView:
        """What the model reads."""
        main, others, batch = self._main(), self._others(), self._batch()
        names = main.feature_names
        features: list[Any] = [
            *self._on_demand(names[0], names[4]), *[_read(main, name) for name in names if self.strings or name[0] != "s"],
            main[names[0]].on(k="other", prefix="theirs"), *others,
        ]  # fmt: skip
        if self.by_other:
            features += [one["s_first"].on(k="other", prefix="second").default("none") for one in others]
        features += [group[name] for group in batch for name in group.feature_names]
        if batch:
            last = batch[-1]
            features.append(last[last.feature_names[0]].on(k="other", prefix="their").default(-1.0))
        return ms.FeatureView("view", request={"amount": "float64", "note": "string"}, features=features)

    def _on_demand(self, count: str, text: str) -> list[Any]:
        """Functions; the first needs the second, and is listed before it."""
        made = [
            ("twice", f"def twice(share):\n    return share * {self.factor}", "float64", "null"),
            ("share", f"def share(amount, g__{count}):\n    return amount / (g__{count} + 1)", "float64", "null"),
            ("hour", "def hour(at):\n    return at // 3600000000 % 24", "int64", "null"),
            ("known", f"def known(amount, g__{count}):\n    return np.where(np.isnan(amount), -1.0, g__{count})",
             "float64", "pass"),
        ]  # fmt: skip
        if self.strings:
            body = f"def same(note, g__{text}):\n    return np.where(note == g__{text}, 'yes', 'no')"
            made.append(("same", body, "string", "null"))
        return [
            OnDemandFeature(name, source_text=body, returns=returns, nulls=nulls) for name, body, returns, nulls in made
        ]

    @property
    def model(self) -> ms.Model:
        """The model that is scored."""
        return _model(self)

    def _model(self) -> ms.Model:
        label = ms.Label(OUTCOMES, "y", on="ask", absent=False, after="1h")
        trainer = ms.LightGBM(rounds=1, leaves=3, min_rows=1)
        return ms.Model("model", view=self.view, examples=ASKS, label=label, trainer=trainer, metrics=["auc"])


def _read(group: Any, name: str) -> Any:
    """A feature as a model reads it: the elements of a list, or of a map, as columns; every second list of rows as arrays."""
    if element_of(group.schema_of_features[name]) is None:
        return group[name]
    return group[name].to_array(pad=_PADS) if name in _ARRAYS else group[name].spread()


def parts_of(values: Sequence[Any], column: ViewColumn) -> list[Any]:
    """Return what a column of a view is of its feature's values: each element of a list or a map, or a field of it."""
    return [_part_of(value, column) for value in values]


def _part_of(value: Any, column: ViewColumn) -> Any:
    if column.size:
        found = [one[column.field] for one in value]
        found = [column.pad if one is None else one for one in found]
        return found + [column.pad] * (column.size - len(found))
    if not column.element:
        return value
    element = value[column.element - 1] if value is not None and len(value) >= column.element else None
    if element is None or not column.field:
        return element
    return element[column.field] if isinstance(element, dict) else element[("key", "value").index(column.field)]


@cache
def _model(shape: Declared) -> ms.Model:
    """Making definitions checks all that they say, so that it is done once for each shape."""
    return shape._model()


def changed(before: Declared, change: Mapping[str, Any]) -> Declared:
    """What is declared after a change."""
    if "window" in change:
        return replace(before, windows=(*before.windows, (change["window"], "0s", None)))
    if "ttl" in change:
        return replace(before, queries=tuple((name, change["ttl"]) for name, _ in before.queries))
    return replace(before, **change)
