"""A project's parts, opened when first asked for and joined as the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from millstream.clock import Clock, project_clock
from millstream.project.backends import BACKENDS, artefacts_of, backend, source_backend
from millstream.project.histories import Histories, pin
from millstream.project.identity import Identity
from millstream.project.layers import Layers
from millstream.project.moved import refuse_moved
from millstream.project.served import Served
from millstream.settings import Settings

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog
    from millstream.buffer.marks import Marks
    from millstream.engines.engine import BatchEngine
    from millstream.registry.definitions import Registry
    from millstream.store.offline import OfflineStore
    from millstream.store.online import OnlineStore
    from millstream.train.versions import ModelVersions

#: What is open, in the order in which it was needed: what others write to is closed after them.
_OPENED = ("log", "online", "offline", "registry", "model_versions", "batch_engine")


class Parts:
    """The log, the stores and the registry of one project in one process, each opened once, when first asked for.

    Args:
        settings: the project.
        left: whether parts are opened that have moved elsewhere, as a migration does that ends.

    Attributes:
        layers: what computes and ingests.
        histories: what has happened.
        identity: whether the parts are still of one another.
    """

    def __init__(self, settings: Settings, *, left: bool = False) -> None:
        self.settings = settings
        self.layers, self.histories, self.identity = Layers(self), Histories(self), Identity(self)
        if not left:
            refuse_moved(settings)
        for section in BACKENDS:
            if getattr(settings, section):
                backend(settings, section)  # what is wrong is said at once
        for stream in settings.streams:
            source_backend(settings, stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all that is open; what is used next is opened anew."""
        for name in ("marks", "served"):  # of what is closed
            self.__dict__.pop(name, None)
        with ExitStack() as closing:
            for name in _OPENED:
                part = self.__dict__.pop(name, None)
                if part is not None:
                    closing.callback(part.close)

    @cached_property
    def clock(self) -> Clock:
        """The project's clock."""
        return project_clock(self.settings.data)

    @cached_property
    def log(self) -> OwnLog:
        """The log."""
        opened: OwnLog = self._open("log")
        return opened

    @cached_property
    def online(self) -> OnlineStore:
        """The online store."""
        opened: OnlineStore = self._open("online")
        return opened

    @cached_property
    def offline(self) -> OfflineStore:
        """The offline store."""
        opened: OfflineStore = self._open("offline")
        return opened

    @cached_property
    def registry(self) -> Registry:
        """The registry of definitions."""
        opened: Registry = self._open("registry")
        return opened

    @cached_property
    def batch_engine(self) -> BatchEngine:
        """What runs the queries of batch groups."""
        opened: BatchEngine = self._open("batch")
        return opened

    @cached_property
    def marks(self) -> Marks:
        """The marks, with those of a project that was made before there were any."""
        from millstream.buffer.embedded.marks_before import marks_before

        marks = self.registry.marks
        if not marks.adopted:
            sources = {one.id: [source.name for source in one.group.sources] for one in self.registry.groups()}
            marks.adopt(marks_before(self.log, sources))
        return marks

    @cached_property
    def model_versions(self) -> ModelVersions:
        """The versions of all models."""
        from millstream.registry import pinning
        from millstream.train.versions import ModelVersions

        self.settings.data.mkdir(parents=True, exist_ok=True)
        folder = artefacts_of(self.settings)
        return ModelVersions(self.registry.database, folder, self.clock, pin=pinning.pin, keep=self._keep)

    @cached_property
    def served(self) -> Served:
        """What serving reads."""
        return Served(self)

    def _keep(self, version: str, snapshots: Mapping[str, int]) -> None:
        """Keep the offline snapshots that a model version learnt from."""
        for table, snapshot in snapshots.items():
            pin(self.offline, table, snapshot, version)

    def _open(self, section: str) -> Any:
        return backend(self.settings, section).open(self.settings, self.clock)
