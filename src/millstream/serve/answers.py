"""The JSON of answers: ages in milliseconds, instants as ISO-8601."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from millstream.clock import to_datetime
from millstream.definitions.data_types import as_text
from millstream.serve.found import GroupFacts
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


def written(value: Any) -> Any:
    """Return a value as an answer has it: a decimal is text, with all of its digits and without an exponent.

    The keys of a map are text, as JSON has them.

    >>> from datetime import date
    >>> written({True: Decimal("1.50"), date(2026, 1, 31): [1]})
    {'true': '1.50', '2026-01-31': [1]}
    """
    if isinstance(value, list):
        return [written(one) for one in value]
    if isinstance(value, dict):
        return {_key(key): written(one) for key, one in value.items()}
    return as_text(value) if isinstance(value, Decimal) else value


def _key(key: Any) -> str:
    return key if isinstance(key, str) else msgspec.json.encode(key).decode().strip('"')


def one_answer(request_id: str, model: str, version: int, scored: Scored) -> ScoredOne:
    """Return the answer for a single row.

    Args:
        request_id: the request's id, under which the capture is found.
        model: the model's name.
        version: the version that scored it.
        scored: what the scorer said of the row.
    """
    at = to_datetime(scored.at)
    return ScoredOne(request_id, model, version, at, scored.score, scored.degraded, ages(scored.groups))


def row_answers(request_ids: Sequence[str], scored: Sequence[Scored]) -> list[ScoredRow]:
    """Return the answers for many rows; what is read of one shard is as old for all of them."""
    known: dict[int, GroupAge] = {}
    answers = []
    for request_id, one in zip(request_ids, scored, strict=True):
        groups = {}
        for name, facts in one.groups.items():
            age = known.get(id(facts))
            groups[name] = age if age is not None else known.setdefault(id(facts), _age(facts))
        answers.append(ScoredRow(request_id, to_datetime(one.at), one.score, one.degraded, groups))
    return answers


def ages(groups: Mapping[str, GroupFacts]) -> dict[str, GroupAge]:
    """Return the ages of groups, in milliseconds."""
    return {name: _age(facts) for name, facts in groups.items()}


def _age(facts: GroupFacts) -> GroupAge:
    return GroupAge(facts.version, _milliseconds(facts.age), _milliseconds(facts.applied), facts.fallback)


def _milliseconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000
