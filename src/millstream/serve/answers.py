"""The JSON of answers: ages in milliseconds, instants as ISO-8601."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from millstream.clock import to_datetime
from millstream.serve.reader import GroupFacts
from millstream.serve.scorer import Scored


class GroupAge(msgspec.Struct, omit_defaults=True):
    """How old what was read of a group is; `fallback` says why it was not read."""

    version: str
    age_ms: float | None
    applied_ms: float | None
    fallback: str | None = None


class ScoredRow(msgspec.Struct):
    """The answer for one of many rows."""

    request_id: str
    at: datetime
    score: float
    degraded: bool
    groups: dict[str, GroupAge]


class ScoredOne(msgspec.Struct, omit_defaults=True):
    """The answer for a single row. `captured` is only said when the capture could not be kept."""

    request_id: str
    model: str
    version: int
    at: datetime
    score: float
    degraded: bool
    groups: dict[str, GroupAge]
    captured: bool = True


class ScoredMany(msgspec.Struct, omit_defaults=True):
    """The answer for many rows; each has a request id of its own."""

    request_id: str
    model: str
    version: int
    rows: list[ScoredRow]
    captured: bool = True


class Features(msgspec.Struct):
    """The answer to a look at features."""

    request_id: str
    view: str
    at: datetime
    degraded: bool
    features: dict[str, Any]
    groups: dict[str, GroupAge]


def one_answer(request_id: str, model: str, version: int, scored: Scored) -> ScoredOne:
    """Return the answer for a single row."""
    at, groups = to_datetime(scored.at), ages(scored.groups)
    return ScoredOne(request_id, model, version, at, scored.score, scored.degraded, groups)


def row_answer(request_id: str, scored: Scored) -> ScoredRow:
    """Return the answer for one of many rows."""
    return ScoredRow(request_id, to_datetime(scored.at), scored.score, scored.degraded, ages(scored.groups))


def ages(groups: Mapping[str, GroupFacts]) -> dict[str, GroupAge]:
    """Return the ages of groups, in milliseconds."""
    return {
        name: GroupAge(facts.version, _milliseconds(facts.age), _milliseconds(facts.applied), facts.fallback)
        for name, facts in groups.items()
    }


def _milliseconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000
