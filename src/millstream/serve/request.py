"""What a caller sends, checked against what a view needs: keys and request fields of their types, or a clear error."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millstream.buffer.codec.values import Unfit, encodes, expected, fit
from millstream.definitions.schema import digits_of
from millstream.engines.instants import other_unit
from millstream.errors import RequestError, nearest

if TYPE_CHECKING:
    from millstream.definitions import FeatureView

_ABSENT = object()
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_EXAMPLES = {
    "int64": 42, "float64": 9.5, "string": "text", "bool": True, "timestamp": "2026-01-31T12:00:00Z",
    "date": "2026-01-31", "uuid": "123e4567-e89b-12d3-a456-426614174000", "bytes": "aGVsbG8=",
}  # fmt: skip
_EXPECTED = {
    "int64": "an integer of at most 64 bits, or null",
    "float64": "a number, or null",
    "string": "a string, or null",
    "bool": "true or false, or null",
    "timestamp": "an ISO-8601 instant or microseconds since 1970 UTC, or null",
    "date": "an ISO-8601 date of the years 1 to 9999, or null",
    "uuid": "a UUID as text, or null",
    "bytes": "base64 text, or null",
}


_MOST = sys.float_info.max
_LEAST = -_MOST


@dataclass(frozen=True)
class Rows:
    """Checked rows, column by column.

    Attributes:
        values: for each key, request field and carried field its values, None for null.
        at: the instant (µs) at which each row is asked for.
        rest: per row the fields that nothing declares, None where there is none.
    """

    values: dict[str, list[Any]]
    at: NDArray[np.int64]
    rest: list[dict[str, Any] | None]

    def __len__(self) -> int:
        return len(self.at)


class RequestSchema:
    """What the rows of one view's requests must hold.

    `carried` names further fields, with their types, that a row may hold and that captures keep: the keys by which a
    label finds its request. With `lenient`, request fields may be absent and are null then: for looking features up.
    Null is welcome everywhere; an absent key or request field is an error.
    """

    def __init__(self, view: FeatureView, carried: Mapping[str, str] | None = None, *, lenient: bool = False) -> None:
        self.view = view.name
        self.keys: dict[str, str] = dict(view.entity_keys)
        self.fields: dict[str, str] = dict(view.request)
        self.carried = {n: t for n, t in (carried or {}).items() if n not in self.keys and n not in self.fields}
        required = self.keys | ({} if lenient else self.fields)
        optional = (self.fields if lenient else {}) | self.carried
        self._checks = [(name, kind, _check_of(kind), name in required) for name, kind in (required | optional).items()]

    @property
    def types(self) -> dict[str, str]:
        """Every declared field and its type: keys, then request fields, then carried ones."""
        return self.keys | self.fields | self.carried

    def parse(self, rows: Sequence[Mapping[str, Any]], now: int) -> Rows:
        """Return the rows checked and turned into columns; `now` (µs) is the instant of those without an `at`.

        Raises `RequestError` (status 400) with the field, what was given and what was expected.
        """
        values: dict[str, list[Any]] = {name: [] for name, *_ in self._checks}
        instants: list[int] = []
        rest: list[dict[str, Any] | None] = []
        for place, row in enumerate(rows):
            if not isinstance(row, dict):
                raise self._not_an_object(place, row)
            found = 0
            for name, kind, check, required in self._checks:
                given = row.get(name, _ABSENT)
                if given is _ABSENT:
                    if required:
                        raise self._absent(place, name, kind, row)
                    given = None
                else:
                    found += 1
                    if given is not None:
                        given = self._checked(place, name, kind, check, given)
                values[name].append(given)
            at = row.get("at", _ABSENT)
            found += at is not _ABSENT
            instants.append(now if at is _ABSENT or at is None else self._instant(place, at))
            rest.append(None if found == len(row) else self._undeclared(row))
        return Rows(values, np.array(instants, np.int64), rest)

    def parse_query(self, parameters: Mapping[str, Sequence[str]], now: int) -> Rows:
        """Return the one row that a query string asks for, its values read by their declared types.

        Raises `RequestError` for what does not read as its type, appears twice, or is not declared.
        """
        row: dict[str, Any] = {}
        for name, texts in parameters.items():
            kind = "timestamp" if name == "at" else self.types.get(name)
            if kind is None:
                raise self._undeclared_parameter(name, texts[0])
            if len(texts) > 1:
                raise self._repeated(name, list(texts))
            row[name] = _from_text(kind, texts[0])
        return self.parse([row], now)

    def _checked(self, place: int, name: str, kind: str, check: Callable[[Any], Any], given: Any) -> Any:
        try:
            return check(given)
        except Unfit:
            unit = other_unit(given) if kind == "timestamp" and type(given) is int else None
            said = f"looks like {unit} since 1970, not microseconds" if unit else f"is not {_a(kind)}"
            raise RequestError(
                f"Row {place}: field '{name}' of view '{self.view}' {said}.",
                field=name,
                given=_shown(given),
                expected=_expected(kind),
                hint="send true or false." if kind == "bool" else f"send it like {_example(kind)!r}.",
            ) from None

    def _instant(self, place: int, given: Any) -> int:
        return int(self._checked(place, "at", "timestamp", _moment, given))

    def _undeclared(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        known = self.types
        return {name: value for name, value in row.items() if name not in known and name != "at"} or None

    def _absent(self, place: int, name: str, kind: str, row: Mapping[str, Any]) -> RequestError:
        close = nearest(name, [given for given in row if given not in self.types])
        return RequestError(
            f"Row {place}: field '{name}' of view '{self.view}' is absent.",
            field=name,
            given=None,
            expected=_expected(kind),
            hint=f"is '{close}' meant to be '{name}'?" if close else "send it, or null if it is not known.",
        )

    def _not_an_object(self, place: int, row: Any) -> RequestError:
        return RequestError(
            f"Row {place} is not an object.",
            field=f"rows[{place}]",
            given=_shown(row),
            expected="an object with a field for every key and request field of the view",
            hint=f"send one like {self.example()}.",
        )

    def _undeclared_parameter(self, name: str, given: str) -> RequestError:
        close = nearest(name, [*self.types, "at"])
        return RequestError(
            f"View '{self.view}' has no key or request field '{name}'.",
            field=name,
            given=_shown(given),
            expected="one of " + ", ".join([*self.types, "at"]),
            hint=f"did you mean '{close}'?" if close else "leave it out.",
        )

    def _repeated(self, name: str, given: list[str]) -> RequestError:
        return RequestError(
            f"Field '{name}' is given {len(given)} times.",
            field=name,
            given=_shown(given),
            expected="one value",
            hint="ask for one row at a time, or score many with POST.",
        )

    def example(self) -> dict[str, Any]:
        """Return a row that this schema accepts."""
        return {name: _example(kind) for name, kind in self.types.items()}


def _integer(given: Any) -> int | None:
    if type(given) is int and -(2**63) <= given < 2**63:
        return given
    found: int | None = fit(given, "int64")
    return found


def _number(given: Any) -> float | None:
    if type(given) is float and _LEAST <= given <= _MOST:
        return given
    found: float | None = fit(given, "float64")
    return found


def _text(given: Any) -> str | None:
    if type(given) is str and given.isascii():
        return given
    found: str | None = fit(given, "string")
    return found


def _truth(given: Any) -> bool | None:
    found: bool | None = fit(given, "bool")
    return found


def _instant(given: Any) -> int | None:
    found: int | None = fit(given, "timestamp")
    return found


def _moment(given: Any) -> int:
    at = _instant(given)
    if at is None:
        raise Unfit
    return at


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "int64": _integer,
    "float64": _number,
    "string": _text,
    "bool": _truth,
    "timestamp": _instant,
}


def _check_of(kind: str) -> Callable[[Any], Any]:
    return _CHECKS.get(kind) or partial(fit, kind=kind)


def _expected(kind: str) -> str:
    return _EXPECTED.get(kind) or f"{expected(kind)}, as text or a number, or null"


def _example(kind: str) -> Any:
    if digits := digits_of(kind):
        return f"{Decimal(1).scaleb(-digits[1]):f}"
    return _EXAMPLES[kind]


def _from_text(kind: str, text: str) -> Any:
    # What does not read as its type stays text, so that the check names it. Python's own reading is wider: `1_0`, `²`.
    if kind in ("int64", "timestamp"):
        return int(text) if _WHOLE.fullmatch(text) else text
    if kind == "float64":
        return _float(text)
    return {"true": True, "false": False}.get(text.lower(), text) if kind == "bool" else text


def _float(text: str) -> Any:
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
        return number if math.isfinite(number) else text
    except ValueError:
        return text


def _a(kind: str) -> str:
    return kind if kind == "bytes" else f"an {kind}" if kind[0] in "aei" else f"a {kind}"


def _shown(given: Any) -> Any:
    if given is None or isinstance(given, bool | int | float):
        return given
    text = given if isinstance(given, str) and encodes(given) else repr(given)
    return text if len(text) <= 200 else text[:197] + "..."
