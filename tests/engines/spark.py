"""Spark on this machine, with Iceberg's own reader."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from millstream.testing.servers.s3 import KEY, SECRET, TABLE_BUCKET, S3Server

JARS = Path(sys.prefix) / "servers" / "spark"
LOCAL = {
    "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2", "spark.ui.showConsoleProgress": "false", "spark.sql.session.timeZone": "UTC",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
}  # fmt: skip


def session(folder: Path) -> SparkSession:
    """A session of two threads in a process of its own; catalogs are added to it as they are needed."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    built = SparkSession.builder.master("local[2]").config("spark.jars", ",".join(map(str, sorted(JARS.glob("*.jar")))))
    for name, value in {**LOCAL, "spark.sql.warehouse.dir": str(folder)}.items():
        built = built.config(name, value)
    return built.getOrCreate()


def add(spark: SparkSession, name: str, catalog: dict[str, str]) -> str:
    """Let Spark know a catalog."""
    spark.conf.set(f"spark.sql.catalog.{name}", "org.apache.iceberg.spark.SparkCatalog")
    for key, value in {"cache-enabled": "false", **catalog}.items():
        spark.conf.set(f"spark.sql.catalog.{name}.{key}", value)
    return name


def on_s3(s3: S3Server, catalog: dict[str, str]) -> dict[str, str]:
    """Properties of a catalog whose tables lie on S3."""
    return {
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO", "s3.endpoint": s3.endpoint, "s3.path-style-access": "true",
        "s3.access-key-id": KEY, "s3.secret-access-key": SECRET, "client.region": "us-east-1", **catalog,
    }  # fmt: skip


def rows(spark: SparkSession, query: str) -> pa.Table:
    """What a query gives."""
    return spark.sql(query).toArrow()
