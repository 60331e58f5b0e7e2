"""What serving reads: the online store with its deadline, and the group versions in use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from millstream.errors import StoreError

if TYPE_CHECKING:
    from millstream.definitions.group_version import GroupVersion
    from millstream.project.parts import Parts
    from millstream.serve.scorer import Scorer
    from millstream.store.online import OnlineStore


class Served:
    """What is read to answer requests.

    Args:
        parts: the project's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @cached_property
    def store(self) -> OnlineStore:
        """The online store as serving reads it, with a deadline where it is elsewhere."""
        from millstream.store.deadline import with_deadline

        return with_deadline(self._parts.online, self._parts.settings.online_read_ms / 1_000)

    def versions(self, pins: tuple[str, ...] = ()) -> Mapping[str, GroupVersion]:
        """By group name, the version to read: one of `pins` where there is one, else the default.

        Raises:
            StoreError: when a version among `pins` is not kept any more.
        """
        every = self._parts.registry.groups()
        for gv in pins:
            if gv not in {one.id for one in every}:
                raise StoreError(f"Group version '{gv}' is retired; its states are gone.", "train the model again.")
        defaults = {one.group.name: one for one in every if one.default}
        return {**defaults, **{one.group.name: one for one in every if one.id in pins}}

    def delay(self, version: GroupVersion) -> int:
        """The time (µs) that events of a stream group take from arrival to being served, as ingestion measured it."""
        from millstream.store.online import shard_metas, typical_delay

        return typical_delay(shard_metas(self.store, version.states, version.shards))

    def scorer(self, model: str, version: str | int = "champion") -> Scorer:
        """A version of a model, ready to score.

        Raises:
            NotFound: when there is no such model, or it has no such version, or no champion.
            MillstreamError: when what is defined and kept now is not what the version reads.
        """
        from millstream.serve.reader import FeatureReader
        from millstream.serve.scorer import Scorer

        parts = self._parts
        definition = parts.registry.model(model)
        loaded = parts.model_versions.load(model, version)
        reader = FeatureReader(self.store, definition.view, self.versions(loaded.pins), parts.clock)
        return Scorer(definition, loaded, reader, parts.clock)
