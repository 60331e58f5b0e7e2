"""The offline store of Iceberg tables as settings choose it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.settings import Settings
from millstream.store.iceberg.store import IcebergOfflineStore

Properties = Annotated[dict[str, str], Meta(description='properties of a catalog, such as {type = "rest"}')]


class Iceberg(Struct, frozen=True):
    """`[offline] kind = "iceberg"`: a SQLite catalog and files in the project's data folder, or another catalog.

    Args:
        catalog: PyIceberg's properties of a catalog, such as `type`, `uri` and `warehouse`; the local one unless set.
        by_day: whether new tables of events, captures and values lie in files by day.
    """

    catalog: Properties = {}
    by_day: bool = False

    def open(self, settings: Settings, clock: Clock) -> IcebergOfflineStore:
        """Open the store."""
        return IcebergOfflineStore(settings.data / "offline", self.catalog or None, by_day=self.by_day)
