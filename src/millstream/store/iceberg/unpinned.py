"""What a commit that lets go of snapshots requires: that nobody has pinned one of them since they were chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import ValidatableTableRequirement


class AssertUnpinned(ValidatableTableRequirement):
    """No tag and no branch names one of the snapshots; PyIceberg would remove it together with its snapshot."""

    type: Literal["assert-unpinned"] = Field(default="assert-unpinned")
    snapshot_ids: list[int]

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # as PyIceberg has it
        """Refuse the commit if one is pinned."""
        refs = {} if base_metadata is None else base_metadata.refs
        if pinned := {ref.snapshot_id for ref in refs.values()}.intersection(self.snapshot_ids):
            raise CommitFailedException(f"snapshots {sorted(pinned)} have been pinned")
