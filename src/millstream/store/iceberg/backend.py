"""The offline store of Iceberg tables as settings choose it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.errors import ProjectError
from millstream.settings import Settings, Span, Switch, Text, sqlite_url
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.passwords import secret

if TYPE_CHECKING:
    from millstream.store.s3 import S3, ObjectFolder

SECRET, CATALOG_SECRET = "MILLSTREAM_S3_SECRET", "MILLSTREAM_CATALOG_SECRET"
Properties = Annotated[dict[str, str], Meta(description='properties of a catalog, such as {type = "rest"}')]
Bucket = Annotated[str, Meta(pattern=r"^(s3://[^/\x00]+(/[^/\x00]+)*/?)?$", description='such as "s3://lake/shop"')]
Endpoint = Annotated[
    str, Meta(pattern=r"^(https?://[^/@\x00]+/?)?$", description='such as "https://s3.example.com", without a path')
]
_LETS_IN = re.compile(r"//[^/@]*:[^/@]*@")  # a URL with a password
_HIDDEN = re.compile(r"secret|passw|^credential$|token$", re.IGNORECASE)


class Iceberg(Struct, frozen=True, kw_only=True):
    """`[offline] kind = "iceberg"`: a SQLite catalog and files in the project's data folder, or S3 and other catalogs.

    Args:
        path: where tables and model artefacts lie, such as "s3://lake/shop"; in the data folder unless set.
        endpoint: where S3 is served, such as "https://s3.example.com"; by Amazon unless set.
        region: the region; what the server or the environment takes for granted unless set.
        access_key: the name of the key; without one, AWS's own ways of finding one are tried.
        secret_env: the variable of the environment that holds the key.
        secret_file: a file that holds it, relative to the project's folder; it goes before the variable.
        catalog: PyIceberg's properties of a catalog, such as `type`, `uri` and `warehouse`; a SQLite file in the data
            folder unless set, which one machine can use.
        catalog_secret_env: the variable of the environment that holds the password of a catalog in a database, or the
            credential of a REST catalog.
        catalog_secret_file: a file that holds it.
        timeout: how long a server may be silent within one request (10 s), each of which is tried three times.
        upkeep: whether we compact tables, let go of old snapshots and delete files, where the catalog is a shared one.
        by_day: whether new tables of events, captures and values lie in files by day.
        for_spark: whether new tables have no column whose name Iceberg keeps for its own, so that Spark reads them whole.
    """

    path: Bucket = ""
    endpoint: Endpoint = ""
    region: str = ""
    access_key: str = ""
    secret_env: Text = SECRET
    secret_file: str = ""
    catalog: Properties = {}
    catalog_secret_env: Text = CATALOG_SECRET
    catalog_secret_file: str = ""
    timeout: Span = 10_000_000
    upkeep: Switch = True
    by_day: bool = False
    for_spark: bool = False

    def open(self, settings: Settings, clock: Clock) -> IcebergOfflineStore:
        """Open the store; what is elsewhere is asked when it is first used."""
        folder = settings.data / "offline"
        if not self.path and not self.catalog:
            return IcebergOfflineStore(folder, by_day=self.by_day, for_spark=self.for_spark)
        from millstream.store.iceberg.shared import SharedWarehouse

        for name, value in self.catalog.items():
            if _HIDDEN.search(name) or _LETS_IN.search(value):
                raise self._holds_secret(name)
        s3 = self._s3(settings)
        warehouse = SharedWarehouse(self._properties(settings, folder, s3), s3, upkeep=self.upkeep)
        return IcebergOfflineStore(warehouse, by_day=self.by_day, for_spark=self.for_spark)

    def artefacts(self, settings: Settings) -> Path | ObjectFolder:
        """Where the artefacts of model versions lie: beside the tables where the settings say where those are."""
        if not self.path:
            return settings.data / "models"
        from millstream.store.s3 import ObjectFolder

        return ObjectFolder(self._s3(settings), f"{self.path.removeprefix('s3://').rstrip('/')}/models")

    def _s3(self, settings: Settings) -> S3:
        from millstream.store.s3 import S3

        key = secret(settings, "offline.secret_file", self.secret_env, self.secret_file)
        if bool(key) != bool(self.access_key):
            lacks = "access_key" if key else "secret"
            raise ProjectError(
                f"Settings: [offline] has no {lacks}, and has the other half of a key of S3.",
                f"set `access_key`, and put its secret into the environment as {self.secret_env}, or into a file that "
                "`secret_file` names; or leave both out, and AWS's own ways of finding a key are tried.",
            )
        return S3(self.endpoint.rstrip("/"), self.region, self.access_key, key, self.timeout / 1e6)

    def _properties(self, settings: Settings, folder: Path, s3: S3) -> dict[str, str]:
        """The properties of the catalog, with what lets us in there and at the storage."""
        from millstream.store.iceberg.shared import TIMEOUT

        given = dict(self.catalog)
        if not given:
            folder.mkdir(parents=True, exist_ok=True)
            given = {"type": "sql", "uri": f"{sqlite_url(folder.absolute() / 'catalog.db')}?timeout=60"}
        hidden = secret(settings, "offline.catalog_secret_file", self.catalog_secret_env, self.catalog_secret_file)
        if given.get("type") == "sql":
            given["uri"] = self._database(given.get("uri", ""), hidden)
        elif hidden:
            given["credential"] = hidden
        place = {"warehouse": f"{self.path.rstrip('/')}/warehouse"} if self.path else {}
        return {**s3.properties, TIMEOUT: str(self.timeout / 1e6), **place, **given}

    def _database(self, uri: str, password: str) -> str:
        """The URL of a database, with its password; PostgreSQL is reached by psycopg unless another driver is named."""
        import sqlalchemy as sa

        try:
            url = sa.make_url(uri)
        except (sa.exc.ArgumentError, ValueError):
            raise ProjectError(
                "Settings: `uri` of `catalog` in [offline] is no URL of a database.",
                'write it as "postgresql://millstream@db.example.com/lake".',
            ) from None  # what does not parse may hold a password anywhere
        if url.password or any(_HIDDEN.search(name) for name in url.query):
            raise self._holds_secret("uri")
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
            if "connect_timeout" not in url.query:
                url = url.update_query_dict({"connect_timeout": str(max(2, round(self.timeout / 1e6)))})
            url = url.set(password=password) if password else url
        return url.render_as_string(hide_password=False)

    def _holds_secret(self, name: str) -> ProjectError:
        return ProjectError(
            f"Settings: '{name}' of `catalog` in [offline] holds a secret.",
            f"take it out, and put it into the environment as {self.catalog_secret_env}, or into a file that "
            "`catalog_secret_file` names; that of S3 as `secret_env` and `secret_file` say.",
        )
