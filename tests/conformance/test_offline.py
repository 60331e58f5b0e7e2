"""The Iceberg offline store, on each kind of catalog and storage, against the contract of offline stores."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.offline_suite import Factory, OfflineStoreConformance
from millstream.testing.servers.postgresql import PostgreSQL
from millstream.testing.servers.s3 import S3Server


class TestIceberg(OfflineStoreConformance):
    of = ("offline store", "Iceberg, SQLite and a folder")

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        return partial(IcebergOfflineStore, tmp_path / "offline")


class TestIcebergOnS3ByPostgreSQL(OfflineStoreConformance):
    of = ("offline store", "Iceberg, PostgreSQL and S3")

    @pytest.fixture
    def factory(self, s3: S3Server, postgresql: PostgreSQL) -> Factory:
        uri = postgresql.database().replace("postgresql:", "postgresql+psycopg:")
        return partial(IcebergOfflineStore, s3.sql(uri, s3.bucket()))


class TestIcebergOnS3ByREST(OfflineStoreConformance):
    of = ("offline store", "Iceberg, a REST catalog and S3")

    @pytest.fixture
    def factory(self, s3: S3Server) -> Iterator[Factory]:
        opened = partial(IcebergOfflineStore, s3.rest())
        yield opened
        store = opened()  # the server has one catalog
        for table in store.tables():
            store.drop(table)


@pytest.mark.chaos
class TestIcebergOnS3BySQLite(OfflineStoreConformance):
    of = ("offline store", "Iceberg, SQLite and S3")

    @pytest.fixture
    def factory(self, s3: S3Server, tmp_path: Path) -> Factory:
        return partial(IcebergOfflineStore, s3.sql(f"sqlite:///{tmp_path}/catalog.db?timeout=60", s3.bucket()))
