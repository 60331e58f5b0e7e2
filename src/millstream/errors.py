"""Every error Millstream raises: one tree, each naming the thing, what was given, what was expected, and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` a reader most likely meant by `name`, or None when nothing is close.

    >>> nearest("amunt", ["amount", "country"])
    'amount'
    """
    by_fold = {candidate.casefold(): candidate for candidate in names}
    found = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.5)
    return by_fold[found[0]] if found else None


def _choices(names: Iterable[str], limit: int = 12) -> str:
    listed = [f"'{name}'" for name in names]
    if not listed:
        return "none"
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _did_you_mean(name: str, names: Iterable[str], otherwise: str) -> str:
    known = list(names)
    guess = nearest(name, known)
    return f"did you mean '{guess}'?" if guess else f"{otherwise} {_choices(known)}."


def _shown(given: object) -> str:
    name = getattr(given, "name", None)
    shown = f"{type(given).__name__} '{name}'" if isinstance(name, str) else repr(given)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


class MillstreamError(Exception):
    """The root of the tree: catch it to catch everything Millstream raises on purpose.

    `message` says what is wrong and what the rule is; `hint` says what to do next.

    >>> print(MillstreamError("Window 'slide=90s' does not divide 'size=5m'.", "use a slide of 60s or 100s."))
    Window 'slide=90s' does not divide 'size=5m'.
    <BLANKLINE>
    Hint: use a slide of 60s or 100s.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nHint: {self.hint}" if self.hint else self.message


class DefinitionError(MillstreamError):
    """A definition is wrong; raised while it is built, before anything runs."""

    @classmethod
    def expected(cls, thing: str, argument: str, given: object, expected: str, hint: str | None = None) -> Self:
        """An argument of a definition has a value that it cannot have."""
        return cls(f"{thing}: {argument} was given {_shown(given)}; expected {expected}.", hint)

    @classmethod
    def bad_name(cls, thing: str, name: object, rule: str, suggestion: str | None) -> Self:
        """A name that cannot become part of a column, topic or table name."""
        hint = f"use '{suggestion}'." if suggestion else "use a name such as 'payments'."
        return cls(f"{thing}: name {name!r} cannot be used; {rule}.", hint)

    @classmethod
    def unknown_column(cls, thing: str, column: str, available: Iterable[str], where: str = "") -> Self:
        """A column that the source does not have; the hint names the nearest one that it has."""
        known = list(available)
        place = f" in {where}" if where else ""
        return cls(f"{thing}: unknown column '{column}'{place}.", _did_you_mean(column, known, "the columns are"))

    @classmethod
    def unknown_choice(cls, thing: str, argument: str, given: object, choices: Iterable[str]) -> Self:
        """A word that is not one of a fixed list of words."""
        known = list(choices)
        hint = _did_you_mean(str(given), known, "choose one of")
        return cls(f"{thing}: {argument} was given {given!r}; expected one of {_choices(known)}.", hint)

    @classmethod
    def wrong_type(cls, thing: str, what: str, given: str, expected: str, hint: str | None = None) -> Self:
        """A column or expression that has another type than its use asks for."""
        return cls(f"{thing}: {what} has type {given}; expected {expected}.", hint)

    @classmethod
    def same_name(cls, thing: str, what: str, name: str, hint: str) -> Self:
        """Two parts of one definition that would bear the same name."""
        return cls(f"{thing}: two {what} are named '{name}'; names must differ.", hint)

    @classmethod
    def bad_sql(cls, thing: str, argument: str, sql: str, reason: str, hint: str | None = None) -> Self:
        """An SQL expression or query that DuckDB refuses, or that may not be used here."""
        return cls(f"{thing}: {argument} `{sql}` {reason}.", hint)

    @classmethod
    def joins_streams(cls, thing: str, column: str) -> Self:
        """A feature group that reaches for a second stream."""
        return cls(
            f"{thing}: '{column}' is not a column of every source; a feature group never joins its sources.",
            "make one feature group per stream and combine them in an on-demand feature.",
        )

    @classmethod
    def hops_do_not_nest(cls, thing: str, fine: str, coarse: str, choices: Iterable[str]) -> Self:
        """Two hops of one group of which the shorter does not divide the longer."""
        return cls(
            f"{thing}: hop '{fine}' does not divide hop '{coarse}'; the hops of a group must nest.",
            f"use a hop of {' or '.join(choices)}.",
        )

    @classmethod
    def cycle(cls, thing: str, path: Iterable[str]) -> Self:
        """On-demand features that need each other."""
        return cls(
            f"{thing}: on-demand features need each other: {' -> '.join(path)}.",
            "compute the shared part in a feature that needs neither.",
        )

    @classmethod
    def not_self_contained(cls, thing: str, offender: str, why: str, hint: str | None = None) -> Self:
        """An on-demand feature that uses more than its arguments, functions of them and constants."""
        shown = f"'{offender}'" if "'" not in offender else offender
        return cls(
            f"{thing}: uses {shown}, {why}; an on-demand feature may use one row's values, functions of them and constants.",
            hint or "write the value into the function, or make it an argument from the request or another feature.",
        )

    @classmethod
    def not_compiled(cls, thing: str, arguments: str, why: str) -> Self:
        """An on-demand feature that is no function of one row's values of these types."""
        return cls(
            f"{thing}: does not compile for one row of {arguments}: {why}.",
            "write it for the values of one row, of these types: numbers by numbers, strings by their methods.",
        )

    @classmethod
    def differs_compiled(cls, thing: str, given: str, compiled: object, expected: object) -> Self:
        """An on-demand feature that computes something else compiled than the same text in Python."""
        return cls(
            f"{thing}: for {given} it gives {compiled!r} compiled and {expected!r} in Python; both must be the same.",
            "write whole numbers as floats (x * 1.0) where they divide, are powers or are rounded.",
        )


class PlanError(MillstreamError):
    """What is asked of `plan` or `apply` cannot be done, or would break something that is in use."""


class ProjectError(MillstreamError):
    """A project folder is missing, incomplete or wrongly configured."""


class RequestError(MillstreamError):
    """A request names something wrong or lacks something; carries what an HTTP answer needs.

    `field` is the request field, `given` and `expected` describe the difference, `status` is the HTTP status.
    """

    def __init__(
        self, message: str, *, field: str, given: object, expected: str, hint: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message, hint)
        self.field = field
        self.given = given
        self.expected = expected
        self.status = status

    @classmethod
    def absent(cls, thing: str, field: str, expected: str) -> Self:
        """A field that a request must give, null or not."""
        return cls(
            f"{thing}: field '{field}' is absent; expected {expected}.",
            field=field,
            given=None,
            expected=expected,
            hint=f"send '{field}', or null when it is not known.",
        )

    @classmethod
    def wrong_type(cls, thing: str, field: str, given: object, expected: str) -> Self:
        """A field whose value has another type than the view declares."""
        return cls(
            f"{thing}: field '{field}' was given {given!r}; expected {expected}.",
            field=field,
            given=given,
            expected=expected,
            hint=f"send '{field}' as {expected}.",
        )


class NotFound(RequestError):
    """Nothing of that name exists; the hint names the nearest that does."""

    def __init__(
        self, message: str, *, field: str, given: object, expected: str, hint: str | None = None, status: int = 404
    ) -> None:
        super().__init__(message, field=field, given=given, expected=expected, hint=hint, status=status)

    @classmethod
    def named(cls, kind: str, name: str, available: Iterable[str]) -> Self:
        """No `kind` ("view", "model", "stream" ...) is named `name`."""
        known = list(available)
        return cls(
            f"No {kind} is named '{name}'.",
            field=kind,
            given=name,
            expected=f"one of {_choices(known)}",
            hint=_did_you_mean(name, known, f"the {kind}s are"),
        )


class LogError(MillstreamError):
    """The log cannot do what is asked of it."""


class Fenced(LogError):
    """Another worker moved the position first; what this one prepared is discarded and it reads again."""

    @classmethod
    def moved(cls, what: str, expected: int | None, found: int | None) -> Self:
        """The position of `what` is not where its writer read it."""
        return cls(
            f"Position of {what} is {found}, expected {expected}: another worker has moved it.",
            "read again from the committed position.",
        )


class Forked(MillstreamError):
    """A handle that a parent process opened is used in a process forked from it, where it is not valid."""

    @classmethod
    def opened_before(cls, place: object) -> Self:
        """What lies at `place` was opened before the fork."""
        return cls(
            f"'{place}' was opened before this process was forked; its handle is not valid here.",
            "start processes with 'spawn', or fork them before the project is opened.",
        )


class StoreError(MillstreamError):
    """A store cannot do what is asked of it."""


class CorruptState(StoreError):
    """Stored bytes do not read as what was written; nothing was overwritten."""


class TrainingError(MillstreamError):
    """A training set or a model cannot be made from what there is."""


class ServeError(MillstreamError):
    """The scoring service cannot start or go on."""


class DiskFull(MillstreamError):
    """The disk or the map of an embedded database is full; what was acknowledged is kept."""

    @classmethod
    def writing(cls, path: object) -> Self:
        """No room is left to write under `path`."""
        return cls(
            f"No space is left to write '{path}'.", "free disk space and start again; nothing acknowledged is lost."
        )
