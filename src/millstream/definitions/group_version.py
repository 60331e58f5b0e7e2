"""A version of a feature group: what pipelines compute, stores keep and model versions pin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup

Group = StreamFeatureGroup | BatchFeatureGroup
"""Either kind of feature group."""
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # A version of which nothing more is said is one of either kind: which, its group tells, and no checker follows that.
    GroupKind = TypeVar("GroupKind", bound=Group, covariant=True, default=Any)
else:
    from typing import TypeVar

    GroupKind = TypeVar("GroupKind", bound=Group, covariant=True)
RETIRED = "retired"
"""The state of a version that nothing reads any more."""


@dataclass(frozen=True)
class GroupVersion(Generic[GroupKind]):
    """One version of a feature group: what pipelines compute, stores keep and models pin.

    Args:
        group: its definition.
        version: counts from 1.
        state: "new", "backfilling", "live" or "retired".
        default: whether it is read where nothing else is pinned.
        shards: how many shards it has in the online store, and partitions in its feature topic, for life.
        build: which build of its states is read; counts from 1.
        building: the build that is made beside it, if one is.
    """

    group: GroupKind
    version: int
    state: str = "new"
    default: bool = False
    shards: int = 4
    build: int = 1
    building: int | None = None

    @property
    def id(self) -> str:
        """The version's name in full, "velocity@1"."""
        return f"{self.group.name}@{self.version}"

    @property
    def states(self) -> str:
        """The name of its states in the online store: "velocity@1", and "velocity@1.2" for its second build."""
        return states_name(self.id, self.build)

    @property
    def beside(self) -> GroupVersion[GroupKind] | None:
        """The same version with the build that is made beside the one that is read, if there is one."""
        return None if self.building is None else replace(self, build=self.building, building=None)

    @property
    def schema(self) -> dict[str, str]:
        """The type of each feature, in order; empty while the tables of a batch group have not been read."""
        return dict(self.group.schema_of_features)


StreamGroupVersion = GroupVersion[StreamFeatureGroup]
BatchGroupVersion = GroupVersion[BatchFeatureGroup]


def states_name(gv: str, build: int) -> str:
    """The name of a build of a group version's states in the online store.

    >>> states_name("velocity@1", 1), states_name("velocity@1", 2)
    ('velocity@1', 'velocity@1.2')
    """
    return gv if build == 1 else f"{gv}.{build}"
