"""A Hive Metastore, of the jars that `make engines` has put into the environment."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from millstream.errors import ServerError
from millstream.store.iceberg.shared import SharedWarehouse
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.s3 import KEY, SECRET, S3Server
from millstream.testing.servers.server import PATIENCE, Server

JARS = Path(sys.prefix) / "servers" / "hive"
#: Little memory, no compiler that takes both cores for seconds, and what Java 17 closes and DataNucleus opens.
FAST = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "--add-opens", "java.base/java.lang=ALL-UNNAMED",
        "--add-opens", "java.base/java.net=ALL-UNNAMED", "--add-opens", "java.base/java.util=ALL-UNNAMED"]  # fmt: skip
LOCKED = 5
"""Seconds after which a lock of somebody who is silent is given to others."""
MAIN = "org.apache.hadoop.hive.metastore.HiveMetaStore"
SCHEMA = "org.apache.hadoop.hive.metastore.tools.MetastoreSchemaTool"


class HiveMetastore(Server):
    """A Metastore on Derby, whose tables lie in `s3`, or in files.

    It listens on every interface, as it has no setting for that.
    """

    name = "Hive"

    def __init__(self, s3: S3Server | None = None) -> None:
        super().__init__()
        self._s3 = s3

    @classmethod
    def lacking(cls) -> str | None:
        """What this machine lacks for the server; see `Server`."""
        if find_spec("thrift") is None:
            return "`make engines` installs the package thrift, or `pip install 'millstream[hive]'`."
        if shutil.which("java") is None:
            return "a Java runtime (17 or newer) must be on the path; `make engines` then lets Maven bring the rest."
        return None if _jar() else "`make engines` lets Maven bring its jars."

    @classmethod
    def version(cls) -> str:
        """The version of the jars."""
        jar = _jar()
        return jar.stem.rpartition("-")[2] if jar else ""

    @property
    def uri(self) -> str:
        """Where it is, as clients are told."""
        return f"thrift://127.0.0.1:{self.port}"

    def hive(self, bucket: str) -> SharedWarehouse:
        """Tables in a bucket, listed here."""
        assert self._s3 is not None
        place = {"type": "hive", "uri": self.uri, "warehouse": f"s3://{bucket}/tables"}
        return SharedWarehouse({**self._s3.access().properties, **place}, self._s3.access())

    def _make(self) -> None:
        super()._make()
        with tarfile.open(next(JARS.glob("*-bin.tar.gz"))) as packed:
            packed.extractall(self.folder, [one for one in packed if "/upgrade/derby/" in one.name], filter="data")
        home = next(self.folder.glob("apache-hive-*"))
        self._given = {"cwd": self.folder, "env": {**os.environ, "METASTORE_HOME": str(home)}}
        self._settle()
        made = self.run(self._java(SCHEMA, "-dbType", "derby", "-initSchema"), **self._given)
        if made.wait(PATIENCE) != 0:
            raise ServerError.silent(self.name, self.said())

    def _settle(self) -> None:
        """Choose a port, and write down all that the server is told."""
        self.port = free_port()
        derby = f"jdbc:derby:;databaseName={self.folder}/derby;create=true"
        _write(self.folder / "metastore-site.xml", {
            "javax.jdo.option.ConnectionURL": derby,
            "javax.jdo.option.ConnectionDriverName": "org.apache.derby.jdbc.EmbeddedDriver",
            "metastore.warehouse.dir": f"file://{self.folder}/warehouse",
            "metastore.thrift.port": str(self.port),
            "metastore.expression.proxy": "org.apache.hadoop.hive.metastore.DefaultPartitionExpressionProxy",
            "metastore.task.threads.always": "org.apache.hadoop.hive.metastore.txn.AcidHouseKeeperService",
            "metastore.txn.timeout": f"{LOCKED}s",
            "metastore.timedout.txn.reaper.interval": "1s",
        })  # fmt: skip
        if self._s3 is not None:
            _write(self.folder / "core-site.xml", {
                "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
                "fs.s3a.endpoint": self._s3.endpoint,
                "fs.s3a.endpoint.region": "us-east-1",
                "fs.s3a.path.style.access": "true",
                "fs.s3a.access.key": KEY,
                "fs.s3a.secret.key": SECRET,
            })  # fmt: skip

    def _command(self) -> list[str]:
        if not self._answered:
            self._settle()
        return self._java(MAIN)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def _java(self, *arguments: str) -> list[str]:
        jars = [str(self.folder), *map(str, sorted(JARS.glob("*.jar")))]
        return ["java", *FAST, "-cp", ":".join(jars), *arguments]


def _jar() -> Path | None:
    return next(JARS.glob("hive-standalone-metastore-*.jar"), None)


def _write(file: Path, properties: Mapping[str, str]) -> None:
    lines = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>\n" for name, value in properties.items()
    )
    file.write_text(f"<configuration>\n{lines}</configuration>\n")
