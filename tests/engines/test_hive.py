"""A Hive Metastore as the catalog of the offline store, against the contract of offline stores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from tests.conftest import needs

from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.offline_suite import Factory, OfflineStoreConformance
from millstream.testing.servers.hive import HiveMetastore
from millstream.testing.servers.s3 import S3Server


@pytest.fixture(scope="module")
def hive(s3: S3Server) -> Iterator[HiveMetastore]:
    needs(HiveMetastore)
    with HiveMetastore(s3) as server:
        yield server


class TestIcebergOnS3ByHive(OfflineStoreConformance):
    of = ("offline store", "Iceberg, a Hive Metastore and S3")

    @pytest.fixture
    def factory(self, hive: HiveMetastore, s3: S3Server) -> Iterator[Factory]:
        opened = partial(IcebergOfflineStore, hive.hive(s3.bucket()))
        yield opened
        store = opened()  # the server has one catalog
        for table in store.tables():
            store.drop(table)
