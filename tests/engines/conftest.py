"""Projects on each kind of catalog, and Spark beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from tests.conftest import absent, needs
from tests.engines.lake import Lake
from tests.engines.spark import JARS, add, on_s3, session

from millstream.testing.servers.hive import HiveMetastore
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL
from millstream.testing.servers.s3 import KEY, SECRET, TABLE_BUCKET, S3Server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def hive(s3: S3Server) -> Iterator[HiveMetastore]:
    """A Metastore of this test session, whose tables lie in the S3 server."""
    needs(HiveMetastore)
    with HiveMetastore(s3) as server:
        yield server


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Spark, for all tests of this session."""
    if find_spec("pyspark") is None or not any(JARS.glob("iceberg-spark-runtime-*.jar")):
        absent("Spark", "`make engines` brings it.")
    opened = session(tmp_path_factory.mktemp("spark"))
    yield opened
    opened.stop()


@dataclass
class Beside:
    """A project, and a session of Spark that knows its tables as `millstream`."""

    lake: Lake
    spark: SparkSession


@pytest.fixture(scope="module", params=["a folder by SQLite", "S3 by PostgreSQL", "S3 by REST", "S3 by Hive"])
def beside(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beside]:
    """A project on each kind of catalog, and Spark."""
    folder = tmp_path_factory.mktemp("lake") / "p"
    settings = secret = ""
    if request.param == "a folder by SQLite":
        offline = folder / ".millstream" / "offline"
        theirs = {"type": "jdbc", "uri": f"jdbc:sqlite:{offline}/catalog.db", "jdbc.schema-version": "V1"}
        theirs["warehouse"] = f"file://{offline}/warehouse"
    else:
        s3: S3Server = request.getfixturevalue("s3")
        bucket = s3.bucket()
        catalog, theirs, secret = _catalog(request, s3)
        settings = f'path = "s3://{bucket}/shop"\nendpoint = "{s3.endpoint}"\naccess_key = "{KEY}"\n'
        settings += f"catalog = {catalog}\n"
        theirs = on_s3(s3, {"warehouse": f"s3://{bucket}/shop/warehouse", **theirs})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MILLSTREAM_S3_SECRET", "" if not settings else SECRET)
        patched.setenv("MILLSTREAM_CATALOG_SECRET", secret)
        lake = Lake(folder, settings)
        yield Beside(lake, add(spark, theirs))
        for table in lake.offline.tables():  # of servers with one catalog
            lake.offline.drop(table)
        lake.project.close()


def _catalog(request: pytest.FixtureRequest, s3: S3Server) -> tuple[str, dict[str, str], str]:
    """A catalog of a server, as our settings have it and as Spark's do, and its secret."""
    if request.param == "S3 by Hive":
        hive: HiveMetastore = request.getfixturevalue("hive")
        return f'{{type = "hive", uri = "{hive.uri}"}}', {"type": "hive", "uri": hive.uri}, ""
    if request.param == "S3 by REST":
        ours = f'{{type = "rest", uri = "{s3.catalog}", warehouse = "{TABLE_BUCKET}"}}'
        theirs = {"type": "rest", "uri": s3.catalog, "warehouse": TABLE_BUCKET, "credential": f"{KEY}:{SECRET}"}
        return ours, theirs, theirs["credential"]
    server: PostgreSQL = request.getfixturevalue("postgresql")
    uri = server.database(USER)
    theirs = {"type": "jdbc", "uri": f"jdbc:postgresql://{uri.partition('@')[2]}", "jdbc.schema-version": "V1"}
    return f'{{type = "sql", uri = "{uri}"}}', {**theirs, "jdbc.user": USER, "jdbc.password": PASSWORD}, PASSWORD
