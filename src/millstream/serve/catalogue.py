"""What a serving process serves: scorers by model, lookups by view, streams; built anew when something has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from millstream.clock import to_datetime
from millstream.errors import MillstreamError, NotFound, ServeError
from millstream.serve.http import encode
from millstream.serve.openapi import openapi
from millstream.serve.reader import FeatureReader
from millstream.serve.request import RequestSchema, Rows
from millstream.serve.scorer import Scorer

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.definitions import EventStream, FeatureView, Model
    from millstream.store.online import OnlineStore
    from millstream.store.registry import GroupVersion, Registry
    from millstream.train.versions import ModelVersions

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
    """Everything that is served at one time. `missing` says, per model that cannot answer, why."""

    models: Mapping[str, Model]
    scorers: Mapping[str, Scorer]
    lookups: Mapping[str, Lookup]
    streams: Mapping[str, EventStream]
    missing: Mapping[str, str]
    openapi: bytes

    def scorer(self, model: str) -> Scorer:
        """Return the scorer of a model; raises `NotFound`, or `ServeError` while it has no version to answer with."""
        scorer = self.scorers.get(model)
        if scorer is not None:
            return scorer
        if model in self.models:
            raise ServeError(self.missing.get(model, f"Model '{model}' is not loaded."), f"run `millstream train {model}`.")
        raise NotFound.named("model", model, self.models)

    def lookup(self, view: str) -> Lookup:
        """Return a view to read; raises `NotFound`."""
        if view not in self.lookups:
            raise NotFound.named("view", view, self.lookups)
        return self.lookups[view]

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
    reference is exchanged, so no request waits and none is dropped. What cannot be loaded leaves the version that
    answers in its place.
    """

    def __init__(
        self, name: str, registry: Registry, versions: ModelVersions, online: OnlineStore, clock: Clock
    ) -> None:
        self._name, self._registry, self._versions = name, registry, versions
        self._online, self._clock = online, clock
        self._exchange = threading.Lock()
        self._seen: object = None
        self.catalogue = Catalogue({}, {}, {}, {}, {"registry": "Nothing is loaded yet."}, b"{}")

    def current(self) -> Catalogue:
        """Return what is served now."""
        return self.catalogue

    def refresh(self) -> bool:
        """Load what has changed; returns whether anything had. Raises nothing: what fails is logged and kept."""
        with self._exchange:
            try:
                seen = self._state()
                if seen == self._seen:
                    return False
                self.catalogue = self._build()
                self._seen = None if self.catalogue.missing else seen
            except MillstreamError as error:
                _logger.error("What is served cannot be renewed: %s", error.message)
                return False
            return True

    def _state(self) -> object:
        return None

    def _build(self) -> Catalogue:
        return self.catalogue
