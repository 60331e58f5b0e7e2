"""Every error Millstream raises: one tree, each naming the thing, what was given, what was expected, and a hint."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from types import FunctionType
from typing import Any, Self


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` a reader most likely meant by `name`, or None when nothing is close.

    >>> nearest("amunt", ["amount", "country"])
    'amount'
    """
    by_fold = {candidate.casefold(): candidate for candidate in names}
    found = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.5)
    return by_fold[found[0]] if found else None


def first_line(error: object) -> str:
    """The first line of what a library said, without colours and without its full stop.

    >>> first_line(ValueError("Invalid Input Error: no number.\\nLINE 1: ..."))
    'Invalid Input Error: no number'
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _choices(names: Iterable[str], limit: int = 12) -> str:
    listed = [f"'{name}'" for name in names]
    if not listed:
        return "none"
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _none_yet(kind: str) -> str:
    declared = kind in ("group", "model", "stream", "view")
    return f"there is no {kind} yet{'; `millstream apply` takes what features.py declares' if declared else ''}."


def _did_you_mean(name: str, names: Iterable[str], otherwise: str) -> str:
    known = list(names)
    guess = nearest(name, known)
    return f"did you mean '{guess}'?" if guess else f"{otherwise} {_choices(known)}."


class _Short(reprlib.Repr):
    """Python's own way to write a value, but a definition by its kind and name, and nothing at length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 50
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, type):
            return f"the class {x.__name__}"
        name = getattr(x, "name", None) or getattr(x, "label", None)
        if isinstance(name, str):
            return f"{type(x).__name__} '{name}'"
        if isinstance(x, FunctionType):
            return f"the function {x.__name__}"
        ours = type(x).__module__.startswith("millstream.")
        return f"a {type(x).__name__}" if ours else super().repr_instance(x, level)

    repr_type = repr_function = repr_instance


_SHORT = _Short()


def shown(given: object) -> str:
    """What was given, short: a definition by its kind and name, anything else as Python writes it.

    >>> shown("24"), shown(["1h", None]), shown(float)
    ("'24'", "['1h', None]", 'the class float')
    """
    text = _SHORT.repr(given)
    return text if len(text) <= 200 else f"{text[:200]}..."


class MillstreamError(Exception):
    """The root of the tree: catch it to catch everything Millstream raises on purpose.

    `message` says what is wrong and what the rule is; `hint` says what to do next; `code` is the error's name for good,
    and docs/errors has a page of that name.

    Why: every error names the thing, what was given, what was expected and what to do.
    Mend: do what the hint says. One that has this very code, "Something unexpected went wrong", is a defect: run the
    command again with MILLSTREAM_DEBUG=1 in the environment, and report what it prints.

    >>> print(MillstreamError("Window 'slide=90s' does not divide 'size=5m'.", "use a slide of 60s or 100s."))
    Window 'slide=90s' does not divide 'size=5m'.
    <BLANKLINE>
    Hint: use a slide of 60s or 100s.
    """

    code = "MS100"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nHint: {self.hint}" if self.hint else self.message


class DefinitionError(MillstreamError):
    """A definition is wrong; raised while it is built, before anything runs.

    Why: definitions are complete when they are built, so that nothing that runs meets a wrong one.
    Mend: change the definition as the hint says; nothing was changed by it.

    >>> import millstream as ms
    >>> ms.EventStream("clicks", time="att", schema={"user_id": "int64", "at": "timestamp"})
    Traceback (most recent call last):
    millstream.errors.DefinitionError: EventStream 'clicks': unknown column 'att' in time.
    <BLANKLINE>
    Hint: did you mean 'at'?
    """

    code = "MS101"

    @classmethod
    def expected(cls, thing: str, argument: str, given: object, expected: str, hint: str | None = None) -> Self:
        """An argument of a definition has a value that it cannot have.

        Args:
            thing: the definition, such as "EventStream 'clicks'".
            argument: the argument's name.
            given: its value; of a definition its type and name are shown.
            expected: what it may be, such as "a duration".
            hint: what to do instead; None for no hint.
        """
        return cls(f"{thing}: {argument} was given {shown(given)}; expected {expected}.", hint)

    @classmethod
    def bad_name(cls, thing: str, name: object, rule: str, suggestion: str | None) -> Self:
        """A name that cannot become part of a column, topic or table name.

        Args:
            thing: the definition.
            name: the name that was given.
            rule: why it cannot be used.
            suggestion: a name like it that can; None where there is none.
        """
        hint = f"use '{suggestion}'." if suggestion else "use a name such as 'payments'."
        return cls(f"{thing}: name {shown(name)} cannot be used; {rule}.", hint)

    @classmethod
    def unknown_column(cls, thing: str, column: str, available: Iterable[str], where: str = "") -> Self:
        """A column that the source does not have; the hint names the nearest one that it has.

        Args:
            thing: the definition.
            column: the name that was given.
            available: the columns that there are.
            where: where it was given, such as "time"; "" where the thing says it.
        """
        known = list(available)
        place = f" in {where}" if where else ""
        return cls(
            f"{thing}: unknown column {shown(column)}{place}.", _did_you_mean(str(column), known, "the columns are")
        )

    @classmethod
    def unknown_choice(cls, thing: str, argument: str, given: object, choices: Iterable[str]) -> Self:
        """A word that is not one of a fixed list of words.

        Args:
            thing: the definition.
            argument: the argument's name.
            given: its value.
            choices: the words that it may be; the hint names the nearest.
        """
        known = list(choices)
        hint = _did_you_mean(str(given), known, "choose one of")
        return cls(f"{thing}: {argument} was given {shown(given)}; expected one of {_choices(known)}.", hint)

    @classmethod
    def wrong_type(cls, thing: str, what: str, given: str, expected: str, hint: str | None = None) -> Self:
        """A column or expression that has another type than its use asks for.

        Args:
            thing: the definition.
            what: the column or expression, such as "time 'at'".
            given: its type.
            expected: the types that it may have, in words.
            hint: what to do instead; None for no hint.
        """
        return cls(f"{thing}: {what} has type {given}; expected {expected}.", hint)

    @classmethod
    def same_name(cls, thing: str, what: str, name: str, hint: str) -> Self:
        """Two parts of one definition that would bear the same name.

        Args:
            thing: the definition.
            what: what the parts are, in the plural.
            name: the name of both.
            hint: how to tell them apart.
        """
        return cls(f"{thing}: two {what} are named '{name}'; names must differ.", hint)

    @classmethod
    def bad_sql(cls, thing: str, argument: str, sql: str, reason: str, hint: str | None = None) -> Self:
        """An SQL expression or query that DuckDB refuses, or that may not be used here.

        Args:
            thing: the definition.
            argument: the argument's name.
            sql: the SQL that was given.
            reason: what is wrong with it, as the end of a sentence that begins with it.
            hint: what to do instead; None for no hint.
        """
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
        """Two hops of one group of which the shorter does not divide the longer.

        Args:
            thing: the group.
            fine: the shorter hop, such as "90s".
            coarse: the longer one.
            choices: hops that would do.
        """
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
        """An on-demand feature that uses more than its arguments, functions of them and constants.

        Args:
            thing: the feature, and the line of it where that is known.
            offender: what it uses.
            why: why that may not be used, as a relative clause.
            hint: what to do instead; to write the value into the function, or to make it an argument, unless given.
        """
        used = f"'{offender}'" if "'" not in offender else offender
        return cls(
            f"{thing}: uses {used}, {why}; an on-demand feature may use one row's values, functions of them and constants.",
            hint or "write the value into the function, or make it an argument from the request or another feature.",
        )

    @classmethod
    def not_compiled(cls, thing: str, arguments: str, why: str) -> Self:
        """An on-demand feature that is no function of one row's values of these types.

        Args:
            thing: the feature.
            arguments: its arguments and their types.
            why: what the compiler says.
        """
        return cls(
            f"{thing}: does not compile for one row of {arguments}: {why}.",
            "write it for the values of one row, of these types: numbers by numbers, strings by their methods.",
        )

    @classmethod
    def differs_compiled(cls, thing: str, given: str, compiled: object, expected: object) -> Self:
        """An on-demand feature that computes something else compiled than the same text in Python.

        Args:
            thing: the feature.
            given: the arguments with their values.
            compiled: what it gives compiled.
            expected: what it gives in Python.
        """
        return cls(
            f"{thing}: for {given} it gives {compiled!r} compiled and {expected!r} in Python; both must be the same.",
            "write whole numbers as floats (x * 1.0) where they divide, are powers or are rounded.",
        )


class UnknownName(MillstreamError, AttributeError):
    """A name that Millstream does not have.

    Why: Python says so of every module; here the message names what comes nearest.
    Mend: write the name as the hint says, or look it up in docs/definitions.md.

    >>> import millstream as ms
    >>> ms.Cuont
    Traceback (most recent call last):
    millstream.errors.UnknownName: 'millstream' has no 'Cuont'.
    <BLANKLINE>
    Hint: did you mean 'Count'?
    """

    code = "MS104"

    @classmethod
    def of(cls, thing: str, name: str, names: Iterable[str]) -> Self:
        """A module that has no such name; the hint names the nearest that it has.

        Args:
            thing: the module that was asked.
            name: the name that it was asked for.
            names: those that it has.
        """
        return cls(f"'{thing}' has no '{name}'.", _did_you_mean(name, names, "it has"))


class PlanError(MillstreamError):
    """What is asked of `plan` or `apply` cannot be done, or would break something that is in use.

    Why: a change is checked as a whole before its first step; here a step would fail, or take away what a model reads.
    Mend: see what `millstream plan` says of it; deploy a model that does not need what goes, or allow the break.

    >>> raise PlanError("Stream 'clicks' has 4 partitions; its definition says 8.", "leave it at 4.")
    Traceback (most recent call last):
    millstream.errors.PlanError: Stream 'clicks' has 4 partitions; its definition says 8.
    <BLANKLINE>
    Hint: leave it at 4.
    """

    code = "MS102"


class ProjectError(MillstreamError):
    """A project folder is missing, incomplete or wrongly configured.

    Why: a project is a folder with `millstream.toml`; a setting that is not known, or a folder of another project's, is
    refused rather than guessed at.
    Mend: go to the project's folder, or mend the file that the message names.

    >>> import millstream as ms, tempfile
    >>> ms.Project(tempfile.mkdtemp())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    millstream.errors.ProjectError: Folder ... is not a Millstream project: it has no millstream.toml.
    ...
    """

    code = "MS103"


class RequestError(MillstreamError):
    """A request names something wrong or lacks something; carries what an HTTP answer needs.

    `field` is the request field, `given` and `expected` describe the difference, `status` is the HTTP status.

    Why: a value that is not what the view declares would be scored as something else.
    Mend: send the field as the view declares it, null where it is not known. `/openapi.json` has every field.

    >>> raise RequestError.wrong_type("Row 0", "amount", "12,50", "a number")
    Traceback (most recent call last):
    millstream.errors.RequestError: Row 0: field 'amount' was given '12,50'; expected a number.
    <BLANKLINE>
    Hint: send 'amount' as a number.
    """

    code = "MS201"

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
        """A field that a request must give, null or not.

        Args:
            thing: what lacks it, such as "Row 0".
            field: the field's name.
            expected: what it is to hold.
        """
        return cls(
            f"{thing}: field '{field}' is absent; expected {expected}.",
            field=field,
            given=None,
            expected=expected,
            hint=f"send '{field}', or null when it is not known.",
        )

    @classmethod
    def of_bound_stream(cls, stream: str) -> Self:
        """Somebody sends to a stream whose events come from a foreign source."""
        return cls(
            f"Stream '{stream}' takes its events from the source that the settings bind it to; nothing can be sent to it.",
            field="stream",
            given=stream,
            expected="a stream that is bound to no source",
            hint=f"write to that source, or remove [streams.{stream}] from millstream.toml; history can be loaded.",
            status=409,
        )

    @classmethod
    def wrong_type(cls, thing: str, field: str, given: object, expected: str) -> Self:
        """A field whose value has another type than the view declares.

        Args:
            thing: what has the field, such as "Row 0".
            field: the field's name.
            given: its value.
            expected: what it is to hold, such as "a number".
        """
        return cls(
            f"{thing}: field '{field}' was given {shown(given)}; expected {expected}.",
            field=field,
            given=given,
            expected=expected,
            hint=f"send '{field}' as {expected}.",
        )


class NotFound(RequestError):
    """Nothing of that name exists; the hint names the nearest that does.

    Why: names are exact; a model or view exists once it is applied, and a version once it is trained.
    Mend: use the name that the hint gives, or apply the definition.

    >>> raise NotFound.named("view", "fruad", ["fraud"])
    Traceback (most recent call last):
    millstream.errors.NotFound: No view is named 'fruad'.
    <BLANKLINE>
    Hint: did you mean 'fraud'?
    """

    code = "MS202"

    def __init__(
        self, message: str, *, field: str, given: object, expected: str, hint: str | None = None, status: int = 404
    ) -> None:
        super().__init__(message, field=field, given=given, expected=expected, hint=hint, status=status)

    @classmethod
    def named(cls, kind: str, name: str, available: Iterable[str]) -> Self:
        """Nothing of a kind has that name.

        Args:
            kind: what was looked for: "view", "model", "stream" ...
            name: the name that was given.
            available: the names that there are; the hint says the nearest.
        """
        known = list(available)
        return cls(
            f"No {kind} is named '{name}'.",
            field=kind,
            given=name,
            expected=f"one of {_choices(known)}",
            hint=_did_you_mean(name, known, f"the {kind}s are") if known else _none_yet(kind),
        )


class LogError(MillstreamError):
    """The log cannot do what is asked of it.

    Why: a topic that is not there, rows that are no events, an event larger than a record may be, a position that was
    trimmed, or a log that another process holds.
    Mend: as the hint says. What was acknowledged before is kept.

    >>> raise LogError("Topic 'clicks' is not in this log.", "apply the stream first.")
    Traceback (most recent call last):
    millstream.errors.LogError: Topic 'clicks' is not in this log.
    <BLANKLINE>
    Hint: apply the stream first.
    """

    code = "MS301"

    @classmethod
    def too_large(cls, thing: str, size: int, largest: int) -> Self:
        """What is to be appended to a topic, or sent to a stream, has more bytes than a log takes in one piece.

        Args:
            thing: what it is, as the beginning of a sentence.
            size: how many bytes it has.
            largest: the most bytes that the log takes.
        """
        return cls(
            f"{thing} of {size:,} bytes; the log takes {largest:,} at most in one record.",
            "send less in one event, or raise the limit: 'largest_record' in millstream.toml, or that of the log's server.",
        )


class Fenced(LogError):
    """Another worker moved the position first; what this one prepared is discarded and it reads again.

    Why: of two workers that read the same events, one commits; the other's batch would count them twice.
    Mend: nothing. A layer reads again by itself; a program of yours reads again from the committed position.

    >>> raise Fenced.moved("'compute' in 'clicks', partition 0", 10, 15)
    Traceback (most recent call last):
    millstream.errors.Fenced: Position of 'compute' in 'clicks', partition 0 is 15, expected 10: another worker has moved it.
    <BLANKLINE>
    Hint: read again from the committed position.
    """

    code = "MS302"

    @classmethod
    def moved(cls, what: str, expected: int | None, found: int | None) -> Self:
        """A position is not where its writer read it.

        Args:
            what: whose position it is.
            expected: where its writer read it; None: it was not set.
            found: where it is; None: it is not set.
        """
        return cls(
            f"Position of {what} is {found}, expected {expected}: another worker has moved it.",
            "read again from the committed position.",
        )


class Forked(MillstreamError):
    """A handle that a parent process opened is used in a process forked from it, where it is not valid.

    Why: the databases beneath keep locks and readers by process; used on both sides of a fork they damage each other.
    Mend: open the project in the process that uses it: start processes with 'spawn', or fork before it is opened.

    >>> raise Forked.opened_before("fraud/.millstream/log")
    Traceback (most recent call last):
    millstream.errors.Forked: 'fraud/.millstream/log' was opened before this process was forked; its handle is not valid here.
    <BLANKLINE>
    Hint: start processes with 'spawn', or fork them before the project is opened.
    """

    code = "MS303"

    @classmethod
    def opened_before(cls, place: object) -> Self:
        """What lies at `place` was opened before the fork."""
        return cls(
            f"'{place}' was opened before this process was forked; its handle is not valid here.",
            "start processes with 'spawn', or fork them before the project is opened.",
        )


class CorruptLog(LogError):
    """What the log's file holds does not read as what was written; nothing of it was used or overwritten.

    Why: every record carries a checksum; a disk, a copy or another program has changed the file since.
    Mend: `millstream doctor` reads all of the log and names each damaged place. Restore the project's folder from a copy.

    >>> raise CorruptLog.at("data.mdb", "topic 'a', its ends")
    Traceback (most recent call last):
    millstream.errors.CorruptLog: Log 'data.mdb' is damaged: topic 'a', its ends does not read as what was written.
    <BLANKLINE>
    Hint: `millstream doctor` lists all that is damaged; then restore the project's folder from a copy.
    """

    code = "MS304"

    @classmethod
    def at(cls, file: object, what: str) -> Self:
        """A place in the log whose checksum does not match what is there, or where something is missing."""
        return cls(
            f"Log '{file}' is damaged: {what} does not read as what was written.",
            "`millstream doctor` lists all that is damaged; then restore the project's folder from a copy.",
        )


class SteppedBack(LogError):
    """The log is older than what a store or the archive has read of it, or it is another log.

    Why: the log's folder was restored from a copy, emptied or replaced, and the stores were not, or the other way round.
    Mend: restore all parts of the project's folder from one copy; or run `millstream repair`, which begins a new epoch.

    >>> raise SteppedBack.found("Archive of 'clicks'", "topic 'clicks', partition 0 ends at 3, before position 9")
    Traceback (most recent call last):
    millstream.errors.SteppedBack: Archive of 'clicks': topic 'clicks', partition 0 ends at 3, before position 9.
    <BLANKLINE>
    Hint: the log is older than what was read of it, or another one: restore it, or run `millstream repair`.
    """

    code = "MS305"

    @classmethod
    def found(cls, who: str, what: str) -> Self:
        """How the log differs from the one that `who` has read."""
        return cls(
            f"{who}: {what}.",
            "the log is older than what was read of it, or another one: restore it, or run `millstream repair`.",
        )


class SourceError(MillstreamError):
    """A foreign source that a stream is bound to cannot be reached or read.

    Why: files that are not there, a project that has moved, a server that does not answer or refuses. What was taken in
    before is kept, and taking in goes on from there by itself.
    Mend: as the hint says; where the source has moved, change its section in millstream.toml.

    >>> raise SourceError("Stream 'clicks': its files 'in/*.jsonl' cannot be read: no such folder.", "make it.")
    Traceback (most recent call last):
    millstream.errors.SourceError: Stream 'clicks': its files 'in/*.jsonl' cannot be read: no such folder.
    <BLANKLINE>
    Hint: make it.
    """

    code = "MS306"


class SourceBusy(SourceError):
    """A foreign source is throttled; it is asked again later, ever more seldom while it stays so.

    Why: a source has limits for all of its readers together.
    Mend: nothing; if it never ends, raise the limits of the source, or let others read less.

    >>> raise SourceBusy("Stream 'clicks': its source is throttled.")
    Traceback (most recent call last):
    millstream.errors.SourceBusy: Stream 'clicks': its source is throttled.
    """

    code = "MS307"


class StoreError(MillstreamError):
    """A store cannot do what is asked of it.

    Why: a database that does not answer, a folder that cannot be written, a table that another engine has changed.
    Mend: as the hint says. Layers try again by themselves, and scoring goes on from what can be read.

    >>> raise StoreError("Registry 'r' cannot be used: database is locked.", "check that its folder can be written.")
    Traceback (most recent call last):
    millstream.errors.StoreError: Registry 'r' cannot be used: database is locked.
    <BLANKLINE>
    Hint: check that its folder can be written.
    """

    code = "MS401"


class CorruptState(StoreError):
    """Stored bytes do not read as what was written; nothing was overwritten.

    Why: what is kept carries a checksum; a disk, a copy or another program has changed it since.
    Mend: `millstream doctor` names what is damaged. What can be computed from history is computed anew by `backfill`;
    for anything else, restore the file that is named from a copy.

    >>> raise CorruptState("State 'spend@1/0/data.mdb' does not read as what was written.", "backfill the group.")
    Traceback (most recent call last):
    millstream.errors.CorruptState: State 'spend@1/0/data.mdb' does not read as what was written.
    <BLANKLINE>
    Hint: backfill the group.
    """

    code = "MS402"


class TrainingError(MillstreamError):
    """A training set or a model cannot be made from what there is.

    Why: no examples, no labels that are known yet, labels that are not what the model learns, or a model file that does
    not load.
    Mend: load history, wait until labels are known, or mend the label; the message says how many of each there are.

    >>> raise TrainingError("Model 'fraud': a binary model needs labels 0 and 1, found -1 and 1.", "map them to 0 and 1.")
    Traceback (most recent call last):
    millstream.errors.TrainingError: Model 'fraud': a binary model needs labels 0 and 1, found -1 and 1.
    <BLANKLINE>
    Hint: map them to 0 and 1.
    """

    code = "MS501"


class ServeError(MillstreamError):
    """The scoring service cannot start or go on.

    Why: its port is taken, or a model has no version that can be served.
    Mend: choose another port, or deploy a version; `/readyz` says what is missing.

    >>> raise ServeError("Port 8787 on 127.0.0.1 cannot be served: address already in use.", "choose another port.")
    Traceback (most recent call last):
    millstream.errors.ServeError: Port 8787 on 127.0.0.1 cannot be served: address already in use.
    <BLANKLINE>
    Hint: choose another port.
    """

    code = "MS601"


class DiskFull(MillstreamError):
    """The disk or the map of an embedded database is full; what was acknowledged is kept.

    Why: a commit needs room. What did not fit was not acknowledged.
    Mend: free disk space, or raise `log_gib`; layers that run go on by themselves when there is room.

    >>> raise DiskFull.writing("fraud/.millstream/log")
    Traceback (most recent call last):
    millstream.errors.DiskFull: No space is left to write 'fraud/.millstream/log'.
    <BLANKLINE>
    Hint: free disk space and start again; nothing acknowledged is lost.
    """

    code = "MS701"

    @classmethod
    def writing(cls, path: object) -> Self:
        """No room is left to write under `path`."""
        return cls(
            f"No space is left to write '{path}'.", "free disk space and start again; nothing acknowledged is lost."
        )


class ServerError(MillstreamError):
    """A server that was to be started for a test or a demo is not here, or does not start.

    Why: `millstream demo flights --servers` and `millstream.testing.servers` start the servers of other projects, which
    the machine must have.
    Mend: `make servers` gets them; where it cannot, install the one that the message names.

    >>> raise ServerError.lacking("Kafka", "a Java runtime (17 or newer) must be on the path.")
    Traceback (most recent call last):
    millstream.errors.ServerError: Kafka cannot be started on this machine.
    <BLANKLINE>
    Hint: a Java runtime (17 or newer) must be on the path.
    """

    code = "MS801"

    @classmethod
    def lacking(cls, name: str, remedy: str) -> Self:
        """The machine lacks a server.

        Args:
            name: the server.
            remedy: how to get it.
        """
        return cls(f"{name} cannot be started on this machine.", remedy)

    @classmethod
    def silent(cls, name: str, said: str) -> Self:
        """A server was begun and does not answer.

        Args:
            name: the server.
            said: the end of what it put out.
        """
        return cls(f"{name} was begun and does not answer.", f"the last that it said: {said.strip() or 'nothing'}")
