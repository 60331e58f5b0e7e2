"""A project in a folder: everything Millstream does, from one object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from millstream.calls import checked_methods
from millstream.clock import Clock
from millstream.errors import NotFound, TrainingError, shown
from millstream.project.parts import Parts
from millstream.settings import FILE, Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
    from millstream.definitions.feature_view import FeatureView
    from millstream.definitions.group_version import Group
    from millstream.definitions.model import Model
    from millstream.definitions.source import EventStream, Table
    from millstream.monitor.explain import Explanation
    from millstream.monitor.parity import ParityReport
    from millstream.monitor.verify import VerifyReport
    from millstream.project.apply import Advance, Agreed
    from millstream.project.drain import Drainer
    from millstream.project.serving import Scoring
    from millstream.registry.definitions import Change, Plan
    from millstream.train.training_set import TrainingSet
    from millstream.train.versions import ModelVersion

Instant = int | str | datetime
Rows = Any  # dicts, or an Arrow, pandas or Polars table


@checked_methods
class Project:
    """A project: what its folder declares, and the pipeline that runs it, in this process.

    Use it from a notebook, a test or a script; `millstream up` runs the same parts as processes of their own, and both
    may be at work at once. Names may be given instead of definitions. Rows go in as dicts, Arrow, pandas or Polars;
    results are Arrow. Its methods are what `millstream` on the command line does, one for each word; what they are made
    of is in `parts`, which is not for users.

    Args:
        path: the project's folder.
        create: whether to make the folder and its millstream.toml where there is none.

    Raises:
        ProjectError: when the folder is no project.

    Example:
        >>> import tempfile
        >>> import millstream as ms
        >>> user = ms.Entity("user", keys={"user_id": "int64"})
        >>> clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
        >>> pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
        >>> view = ms.FeatureView("pace", features=[pace])
        >>> project = ms.Project(tempfile.mkdtemp(), create=True)
        >>> [change.name for change in project.apply(view)]
        ['user', 'clicks', 'pace', 'pace']
        >>> project.load("clicks", [{"user_id": 1, "at": "2026-01-01T10:00:00Z"}])
        1
        >>> project.drain()["events"]
        1
        >>> project.features("pace", [{"user_id": 1}], at="2026-01-01T10:30:00Z").to_pylist()
        [{'pace__count_1h': 1}]
    """

    def __init__(self, path: str | Path = ".", *, create: bool = False) -> None:
        folder = Path(path)
        if create and not (folder / FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            name = json.dumps(folder.resolve().name)  # what JSON escapes, TOML does
            (folder / FILE).write_text(f"name = {name}\n", encoding="utf-8")
        self.settings = Settings.load(folder)
        self.settings.own()
        self.parts = Parts(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def clock(self) -> Clock:
        """The project's clock."""
        return self.parts.clock

    # What is declared.

    def plan(self, *definitions: Any) -> Plan:
        """What `apply` would change; `print(plan.text())` shows it.

        Args:
            definitions: what is wanted beside what there is; all that the folder declares, and no more, when none is
                given.

        Raises:
            DefinitionError: when what the folder declares is wrong.
            PlanError: when two definitions of one name differ.
        """
        from millstream.project.apply import plan
        from millstream.project.declared import declared

        return plan(self.parts, definitions or declared(self.settings), complete=not definitions)

    def apply(self, *definitions: Any, allow_breaking: bool = False, agreed: Agreed | None = None) -> list[Change]:
        """Make the registry hold the definitions, and start computing what is new from the present on.

        Args:
            definitions: what to add or change; without any, what the folder declares, and what it does not is removed.
            allow_breaking: whether to do what breaks a reader, a model or a stream's producers.
            agreed: is shown the plan before anything is removed; nothing is unless it returns True.

        Returns:
            What was changed.

        Raises:
            PlanError: when a change would break or remove something and that was not asked for.
        """
        from millstream.project.apply import apply

        planned = self.plan(*definitions)
        return apply(self.parts, planned, allow_breaking=allow_breaking, agreed=agreed)

    # Events in, features out.

    def send(self, stream: str | EventStream, rows: Rows) -> int:
        """Append events to a stream; durable when it returns. What is wrong with one makes it a dead letter later.

        Args:
            stream: the stream.
            rows: dicts, or a table; one dict is one row.

        Returns:
            How many events were appended.

        Raises:
            NotFound: when there is no such stream.
            DiskFull: when there is no room; nothing was appended.
        """
        from millstream.project.drain import append

        return append(self.parts, _name(stream, "EventStream"), rows, history=False)

    def load(self, stream: str | EventStream, rows: Rows) -> int:
        """Append events of the past, which arrived when they say: at the stream's `available`, else its `delay` later.

        Args:
            stream: the stream.
            rows: dicts, or a table.

        Returns:
            How many events were appended; its `dead` says how many of them will be dead letters, which is logged too.
        """
        from millstream.project.drain import append

        return append(self.parts, _name(stream, "EventStream"), rows, history=True)

    def write(self, group: str | BatchFeatureGroup, rows: Rows) -> int:
        """Give a batch group rows as its query would have returned them now.

        Args:
            group: the group.
            rows: its join keys, its time column if it has one, and its features; instants may be ISO-8601 text.

        Returns:
            How many rows were written to the buffer; `drain` brings them to the stores.

        Raises:
            RequestError: when the group is folded from events, or a value is not what its column holds.
        """
        from millstream.project.rows_by_hand import write

        return write(self.parts, _name(group, "BatchFeatureGroup"), rows)

    def drain(self) -> Mapping[str, int]:
        """Compute and ingest in this process until the buffer is empty.

        Returns:
            How many events, deltas and batch runs were handled, and how many dead letters came of it.
        """
        return self._drainer.drain()

    def sync(self) -> Mapping[str, int]:
        """Archive what has come, ship captures, bring the offline store up to the online one, and drop what is retired.

        Returns:
            How many rows were archived and evaluated, and how many retired versions and replaced builds were dropped.
        """
        if "_scoring" in self.__dict__:
            self._scoring.ship()
        return self._drainer.sync()

    def backfill(self, group: str | Group | None = None, *, progress: Advance | None = None) -> list[str]:
        """Compute what came before new group versions, and go on until they are read by default.

        Args:
            group: a group to compute anew: its default version, and others whose states are damaged. Without it, all
                versions that have not been computed.
            progress: called with how much is done and how much there is.

        Returns:
            The group versions, such as "habits@2".

        Raises:
            NotFound: when there is no such group.
        """
        return self._drainer.backfill(
            None if group is None else _name(group, "StreamFeatureGroup", "BatchFeatureGroup"), progress
        )

    def features(self, view: str | FeatureView, keys: Rows, at: Instant | None = None) -> pa.Table:
        """The view's features from the online store, at an instant.

        Args:
            view: the view.
            keys: rows of entity keys, as dicts or a table; request fields may be left out and are null then.
            at: the instant; now unless given.

        Returns:
            A row of the view's columns, of their declared types, for each of `keys`.

        Raises:
            RequestError: when a key is absent or of another type.
        """
        from millstream.buffer.codec.values import instant
        from millstream.project.drain import features

        return features(self.parts, _name(view, "FeatureView"), keys, None if at is None else instant("at", at))

    def history(
        self, group: str | StreamFeatureGroup, start: Instant | None = None, end: Instant | None = None
    ) -> pa.Table:
        """A group's values as sync wrote them to the offline store: keys, the instant, values, version and positions.

        Args:
            group: the group; its default version is read.
            start: from this instant on.
            end: before this instant.

        Returns:
            A row for each key and sync at which its values had changed.

        Raises:
            NotFound: when there is no such group, or it has not been synced yet.
        """
        from millstream.buffer.codec.values import instant
        from millstream.project.drain import synced

        bounds = [None if one is None else instant(name, one) for name, one in (("start", start), ("end", end))]
        return synced(self.parts, _name(group, "StreamFeatureGroup"), *bounds)

    def dead_letters(self, stream: str | EventStream | Table, *, newest: int | None = None) -> pa.Table:
        """What was sent to a stream and could not be taken, with the reason; `drain`, or the layers, find it.

        Args:
            stream: the stream, or a table on some of whose rows a batch group's query fails.
            newest: how many of the newest; all unless given.

        Returns:
            A row for each, oldest first: partition, position, arrived (UTC), reason and payload, the event as it was
            sent. One that several feature groups cannot take has a row for each.

        Raises:
            NotFound: when there is no such stream or table.

        Example:
            >>> import tempfile
            >>> import millstream as ms
            >>> clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
            >>> project = ms.Project(tempfile.mkdtemp(), create=True)
            >>> _ = project.apply(clicks)
            >>> _ = project.send(clicks, [{"user_id": 1, "at": "2026-01-01"}, {"user_id": "x", "at": "2026-01-01"}])
            >>> _ = project.drain()
            >>> project.dead_letters(clicks)["reason"].to_pylist()
            ["Wrong type: column 'user_id' does not hold a whole number of 64 bits."]
        """
        return self.parts.histories.dead_letters(_name(stream, "EventStream", "Table"), newest)

    # Models.

    def training_set(self, model: str | Model, start: Instant | None = None, end: Instant | None = None) -> TrainingSet:
        """Examples of a model with their features as of each one's instant, and the labels known now.

        Args:
            model: the model.
            start: examples from this instant on.
            end: examples before this instant.

        Returns:
            No example is lost; `.split()` keeps the matured ones, `.to_pandas()` gives a data frame.
        """
        from millstream.buffer.codec.values import instant
        from millstream.train.training_set import training_set

        definition = self.parts.registry.model(_name(model, "Model"))
        bounds = {name: instant(name, one) for name, one in (("start", start), ("end", end)) if one is not None}
        return training_set(definition, self.parts.histories.training(), now=self.clock.now(), **bounds)

    def train(self, model: str | Model, examples: TrainingSet | None = None) -> ModelVersion:
        """Fit a model to its training set and register the version; `deploy` makes it answer.

        Args:
            model: the model.
            examples: a training set made before; a new one unless given.

        Raises:
            TrainingError: when no example has matured, or all have the same label.
        """
        from millstream.project import refused
        from millstream.train.fitting import train
        from millstream.train.training_set import TrainingSet

        definition = self.parts.registry.model(_name(model, "Model"))
        if examples is not None and not isinstance(examples, TrainingSet):
            raise TrainingError(
                f"train was given examples of type '{type(examples).__name__}'; expected a TrainingSet.",
                "pass what training_set(model) returns, or leave it out.",
            )
        found = examples if examples is not None else self.training_set(definition)
        try:
            return train(definition, found, self.parts.model_versions)
        except TrainingError as error:
            raise refused.explained(self.parts, definition, error) from error

    def register(
        self, model: str | Model, fitted: Any, *, dictionaries: Mapping[str, Sequence[str]] | None = None
    ) -> ModelVersion:
        """Register a model that was fitted elsewhere by its trainer's library, to the view's columns in their order.

        Args:
            model: the model it is a version of.
            fitted: the model, or its text; for LightGBM the booster.
            dictionaries: for each string column its values in the order of their codes.

        Returns:
            The version that it is from now on, which nothing serves until it is deployed.

        Raises:
            TrainingError: when it was fitted to other columns, or a string column has no dictionary.
        """
        from millstream.train.fitting import adopt

        definition = self.parts.registry.model(_name(model, "Model"))
        versions = self.parts.served.versions()
        pins = sorted({versions[read.group.name].id for read in definition.view.groups})
        return adopt(definition, fitted, self.parts.model_versions, pins=pins, dictionaries=dictionaries)

    def deploy(self, model: str | Model, version: int | None = None) -> int:
        """Make a version of a model its champion; serving takes it within a second.

        Args:
            model: the model.
            version: the version; the newest unless given.

        Returns:
            The version.

        Raises:
            NotFound: when there is no such version.
        """
        from millstream.project.serving import deploy

        return deploy(self.parts, _name(model, "Model"), version)

    def rollback(self, model: str | Model) -> int:
        """Make the champion before this one the champion again.

        Returns:
            Its version.

        Raises:
            NotFound: when there was none.
        """
        from millstream.project.serving import rollback

        return rollback(self.parts, _name(model, "Model"))

    def score(self, model: str | Model, rows: Rows) -> pa.Table:
        """Score requests with the champion, as serving does, and capture them.

        Args:
            model: the model.
            rows: Entity keys and request fields, as dicts or a table; a row's `at` is now unless it says.

        Returns:
            A row for each: request_id, score, version, at (µs), degraded.

        Raises:
            RequestError: when a row does not hold what the view needs.
            NotFound: when the model has no champion.
        """
        return self._scoring.score(_name(model, "Model"), rows)

    # What was served.

    def verify(self, view: str | FeatureView | None = None, *, sample: int | None = None) -> VerifyReport:
        """Recompute captured vectors from history with exactly the events they say were applied; every bit must agree.

        Args:
            view: the view; all that models read unless given.
            sample: how many of the newest captures of each; all unless given.

        Raises:
            RequestError: when `sample` is no whole number from 1.
        """
        return self._scoring.verify(None if view is None else _name(view, "FeatureView"), sample)

    def parity(self, model: str | Model, *, sample: int | None = None) -> ParityReport:
        """Compare captured vectors with training data at the same keys and instants, and explain every difference.

        Args:
            model: the model.
            sample: how many of the newest captures; all unless given.

        Raises:
            RequestError: when `sample` is no whole number from 1.
        """
        return self._scoring.parity(_name(model, "Model"), sample)

    def explain(self, request_id: str, feature: str | None = None) -> Explanation:
        """What one request was answered from: its vector, versions, positions and ages, and the events of a feature.

        Args:
            request_id: the id in its answer.
            feature: a column, such as "habits__amount_mean_30d", whose events to list.

        Raises:
            NotFound: when no such request was captured, or the vector has no such column.
        """
        return self._scoring.explain(request_id, feature)

    def status(self) -> Mapping[str, Any]:
        """The layers with their rates, lags and ages, the groups, models and streams; ready for JSON."""
        from millstream.project.serving import status

        return status(self.parts)

    def close(self) -> None:
        """Ship what was captured and let go of everything that is open; the end of a `with` block does so, too."""
        for name in ("_scoring", "_drainer"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()
        self.parts.close()

    @cached_property
    def _drainer(self) -> Drainer:
        from millstream.project.drain import Drainer

        return Drainer(self.parts)

    @cached_property
    def _scoring(self) -> Scoring:
        from millstream.project.serving import Scoring

        return Scoring(self.parts)


def _name(thing: Any, *kinds: str) -> str:
    """The name of a definition of one of some kinds, or a name as it is."""
    name = thing if isinstance(thing, str) else getattr(thing, "name", None)
    wanted = " or ".join(kinds)
    if not isinstance(name, str):
        raise NotFound(
            f"{shown(thing)} is no definition.",
            field="definition",
            given=thing,
            expected="a definition or its name",
            hint=f"give what was declared, a ms.{wanted}, or its name as text.",
        )
    if not isinstance(thing, str) and type(thing).__name__ not in kinds:
        raise NotFound(
            f"{shown(thing)} is no {wanted}.",
            field="definition",
            given=thing,
            expected=wanted,
            hint=f"give the {wanted} that was declared, or its name as text.",
        )
    return name
