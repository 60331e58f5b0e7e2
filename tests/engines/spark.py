"""Spark on this machine, with Iceberg's own reader."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from millstream.testing.servers.s3 import KEY, SECRET, S3Server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JARS = Path(sys.prefix) / "servers" / "spark"
LOCAL = {
    "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2", "spark.ui.showConsoleProgress": "false", "spark.sql.session.timeZone": "UTC",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
}  # fmt: skip


def session(folder: Path) -> SparkSession:
    """A session of two threads, in a Java process of its own."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    building = SparkSession.builder.master("local[2]")
    jars = ",".join(map(str, sorted(JARS.glob("*.jar"))))
    for name, value in {**LOCAL, "spark.jars": jars, "spark.sql.warehouse.dir": str(folder)}.items():
        building = building.config(name, value)
    opened = building.getOrCreate()
    opened.sparkContext.setLogLevel("ERROR")
    return opened


def add(spark: SparkSession, catalog: Mapping[str, str]) -> SparkSession:
    """A session that knows a catalog as `millstream`, which is the name of ours in a database."""
    opened = spark.newSession()
    opened.conf.set("spark.sql.catalog.millstream", "org.apache.iceberg.spark.SparkCatalog")
    for key, value in {"cache-enabled": "false", **catalog}.items():
        opened.conf.set(f"spark.sql.catalog.millstream.{key}", value)
    return opened


def on_s3(s3: S3Server, catalog: Mapping[str, str]) -> dict[str, str]:
    """Properties of a catalog whose tables lie on S3."""
    return {
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO", "s3.endpoint": s3.endpoint, "s3.path-style-access": "true",
        "s3.access-key-id": KEY, "s3.secret-access-key": SECRET, "client.region": "us-east-1", **catalog,
    }  # fmt: skip
