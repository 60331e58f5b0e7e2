"""What a serving process serves: scorers by model, lookups by view, streams; built anew when something has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from millstream.clock import to_datetime
from millstream.errors import MillstreamError, NotFound, ServeError
from millstream.serve.http import encode
from millstream.serve.openapi import openapi
from millstream.serve.request import RequestSchema, Rows

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.definitions.feature_view import FeatureView
    from millstream.definitions.group_version import GroupVersion
    from millstream.definitions.model import Model
    from millstream.definitions.source import EventStream
    from millstream.registry.definitions import Registry
    from millstream.serve.reader import FeatureReader
    from millstream.serve.scorer import Scorer
    from millstream.store.online import OnlineStore
    from millstream.train.versions import LoadedModel, ModelVersions

_logger = logging.getLogger("millstream.serve")


@dataclass(frozen=True)
class Lookup:
    """One view, ready to be read."""

    schema: RequestSchema
    reader: FeatureReader

    def at(self, rows: Rows) -> datetime:
        """Return the instant of the first row."""
        return to_datetime(int(rows.at[0]))


@dataclass(frozen=True)
class Catalogue:
    """Everything that is served at one time.

    `missing` says why a model ("model fraud") or a view ("view fraud") cannot answer; `ready` is false while something
    that is deployed cannot. `stopped` are the models that have a champion, and nothing that can answer. `needed` has, by
    stream, the columns without which its events count for nothing.
    """

    models: Mapping[str, Model]
    scorers: Mapping[str, Scorer]
    lookups: Mapping[str, Lookup]
    streams: Mapping[str, EventStream]
    missing: Mapping[str, str]
    openapi: bytes
    ready: bool = True
    stopped: tuple[str, ...] = ()
    needed: Mapping[str, set[str]] = field(default_factory=dict)

    def scorer(self, model: str) -> Scorer:
        """Return the scorer of a model; raises `NotFound`, or `ServeError` while it has no version to answer with."""
        scorer = self.scorers.get(model)
        if scorer is not None:
            return scorer
        if model not in self.models:
            raise NotFound.named("model", model, self.models)
        why = self.missing.get(f"model {model}", f"Model '{model}' is not loaded.")
        raise ServeError(why, f"`millstream train {model}` trains a version, `millstream deploy {model}` deploys one.")

    def lookup(self, view: str) -> Lookup:
        """Return a view to read; raises `NotFound`, or `ServeError` while it cannot be read."""
        if view in self.lookups:
            return self.lookups[view]
        if f"view {view}" in self.missing:
            raise ServeError(self.missing[f"view {view}"], "`millstream status` shows the feature groups' states.")
        raise NotFound.named("view", view, self.lookups)

    def stream(self, name: str) -> EventStream:
        """Return a stream to send to; raises `NotFound`."""
        if name not in self.streams:
            raise NotFound.named("stream", name, self.streams)
        return self.streams[name]

    def label_stream(self, model: str) -> EventStream:
        """Return the stream that a model's labels are events of; raises `NotFound`."""
        if model not in self.models:
            raise NotFound.named("model", model, self.models)
        return self.models[model].label.stream


class Deployments:
    """Keeps a catalogue in step with the registry and the models' aliases.

    `refresh` is called about once a second, off the request path; what it builds is verified and warm before one
    reference is exchanged, so no request waits and none is dropped. A model whose new version cannot be loaded goes on
    with the one that it has, as long as what is defined and kept is what that one reads; what no longer fits is not
    served from then on.
    """

    def __init__(
        self, name: str, registry: Registry, versions: ModelVersions, online: OnlineStore, clock: Clock
    ) -> None:
        self._name, self._registry, self._versions = name, registry, versions
        self._online, self._clock = online, clock
        self._exchange = threading.Lock()
        self._seen: object = None
        self._catalogue = Catalogue({}, {}, {}, {}, {"registry": "Nothing is loaded yet."}, b"{}", ready=False)

    def current(self) -> Catalogue:
        """Return what is served now."""
        return self._catalogue

    def refresh(self) -> bool:
        """Load what has changed; returns whether anything had. What fails is logged and tried again next time."""
        with self._exchange:
            try:
                models = {model.name: model for model in self._registry.models()}
                champions = {name: self._versions.aliases(name).get("champion") for name in models}
                seen = (self._registry.revision(), champions)
                if seen == self._seen:
                    return False
                found = self._build(models, champions)
            except (MillstreamError, OSError) as error:
                _logger.error("What is served cannot be renewed: %s", error)
                return False
            for what, why in found.missing.items():
                if self._catalogue.missing.get(what) != why:
                    _logger.warning("The %s is not served: %s", what, why)
            self._catalogue = found
            self._seen = seen if found.ready else None
            return True

    def _build(self, models: Mapping[str, Model], champions: Mapping[str, int | None]) -> Catalogue:
        every = self._registry.groups()
        streams = {stream.name: stream for stream in self._registry.streams()}
        missing: dict[str, str] = {}
        scorers = {
            name: scorer
            for name, model in models.items()
            if (scorer := self._scorer(model, champions[name], every, missing)) is not None
        }
        lookups = {
            view.name: lookup
            for view in self._registry.views()
            if (lookup := self._lookup(view, every, missing)) is not None
        }
        schemas = {name: scorer.schema for name, scorer in scorers.items()}
        views = {name: one.schema for name, one in lookups.items()}
        columns = {name: one.reader.view.dtypes for name, one in lookups.items()}
        document = openapi(self._name, schemas, views, columns, streams.values())
        failing = [name for name, version in champions.items() if version and f"model {name}" in missing]
        stopped = tuple(name for name in failing if name not in scorers)
        needed = {name: needed_columns(stream, every) for name, stream in streams.items()}
        return Catalogue(models, scorers, lookups, streams, missing, encode(document), not failing, stopped, needed)

    def _scorer(
        self, model: Model, champion: int | None, every: Sequence[GroupVersion], missing: dict[str, str]
    ) -> Scorer | None:
        """The scorer of a model's champion, or of the version there is where the new one cannot be had."""
        before = self._catalogue.scorers.get(model.name)
        if champion is None:
            missing[f"model {model.name}"] = f"Model '{model.name}' has no deployed version yet."
            return None
        same = before is not None and before.loaded.version == champion
        try:
            loaded = before.loaded if before is not None and same else self._versions.load(model.name, champion)
            return self._ready(model, loaded, every, before)
        except MillstreamError as error:
            missing[f"model {model.name}"] = error.message
            if before is None or same:
                return None
        try:
            return self._ready(model, before.loaded, every, before)
        except MillstreamError:
            return None

    def _ready(self, model: Model, loaded: LoadedModel, every: Sequence[GroupVersion], before: Scorer | None) -> Scorer:
        """A scorer of a version by what is defined and kept now: the one before, if nothing has changed for it."""
        pinned = versions_of(model.view, every, loaded.pins)
        if (
            before is not None
            and before.loaded is loaded
            and before.model == model
            and before.reader.versions == pinned
        ):
            return before
        from millstream.serve.reader import FeatureReader
        from millstream.serve.scorer import Scorer

        scorer = Scorer(model, loaded, FeatureReader(self._online, model.view, pinned, self._clock), self._clock)
        scorer.score([scorer.schema.example()])  # whatever is compiled or opened at a first score is so now
        return scorer

    def _lookup(self, view: FeatureView, every: Sequence[GroupVersion], missing: dict[str, str]) -> Lookup | None:
        from millstream.serve.reader import FeatureReader

        try:
            reader = FeatureReader(self._online, view, versions_of(view, every, ()), self._clock)
            if reader.absent:
                raise ServeError(f"View '{view.name}' reads '{reader.absent[0]}', which is being backfilled.")
            return Lookup(RequestSchema(view, lenient=True), reader)
        except MillstreamError as error:
            missing[f"view {view.name}"] = error.message
            return None


def needed_columns(stream: EventStream, versions: Iterable[GroupVersion]) -> set[str]:
    """Return the columns of a stream without which its events count for nothing: its time, and the keys of its groups."""
    groups = [version.group for version in versions]
    reading = [group for group in groups if group.columns and any(one.name == stream.name for one in group.sources)]
    keys = {column for group in reading for column in group.keys.values()}
    return {stream.time, *(keys & set(stream.schema))}


def versions_of(view: FeatureView, every: Sequence[GroupVersion], pins: Sequence[str]) -> dict[str, GroupVersion]:
    """Return the version to read of each of a view's groups: the pinned one, else the default.

    Args:
        view: the view.
        every: all group versions that are kept.
        pins: group versions, such as "habits@2", to read in place of the default ones; none for a read that is not
            pinned.

    Returns:
        dict[str, GroupVersion]: by the name of the group.

    Raises:
        ServeError: for a group that has no version to read, or whose pinned version is not kept any more.
    """
    found: dict[str, GroupVersion] = {}
    for name in (read.group.name for read in view.groups):
        versions = [one for one in every if one.group.name == name]
        gone = [gv for gv in pins if gv.rpartition("@")[0] == name and gv not in {one.id for one in versions}]
        if gone:
            raise ServeError(
                f"View '{view.name}' is to be read with '{gone[0]}', which is retired; its states are gone."
            )
        chosen = [one for one in versions if one.id in pins] or [one for one in versions if one.default]
        if not chosen:
            raise ServeError(f"View '{view.name}' reads feature group '{name}', which has no version to read.")
        found[name] = chosen[0]
    return found
