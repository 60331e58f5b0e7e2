"""A Hive Metastore as a catalog: tables lie where the settings say, no request waits for ever, no commit undoes another's."""

from __future__ import annotations

import threading
from typing import Any

from hive_metastore.ThriftHiveMetastore import Client
from hive_metastore.ttypes import (
    CheckLockRequest,
    EnvironmentContext,
    HeartbeatRequest,
    LockRequest,
    LockResponse,
    LockState,
    MetaException,
    NoSuchLockException,
    TxnAbortedException,
)
from hive_metastore.ttypes import Table as HiveTable
from pyiceberg.catalog import WAREHOUSE_LOCATION
from pyiceberg.catalog.hive import HiveCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.typedef import Identifier
from thrift.transport.TSocket import TSocket

from millstream.errors import ProjectError, StoreError
from millstream.store.iceberg.commit import name
from millstream.store.iceberg.shared import TIMEOUT

_ASKED, _EVERY = 300, 0.1
"""How often, and after how many seconds each, somebody who waits for a table's lock asks for it."""


class CarefulHiveCatalog(HiveCatalog):
    """PyIceberg's Hive catalog, beside which other threads, other writers and a server that hangs may be."""

    def __init__(self, called: str, **properties: str) -> None:
        address = properties.get("uri", "")
        if not address.startswith("thrift://"):
            raise ProjectError(
                f"Settings: `uri` of `catalog` in [offline] is '{address}', which is no address of a Hive Metastore.",
                'write it as "thrift://metastore.example.com:9083".',
            )
        if not properties.get(WAREHOUSE_LOCATION):
            raise ProjectError(
                "Settings: [offline] does not say where the tables of its Hive catalog lie.",
                'set `path`, such as "s3://lake/shop".',
            )
        super().__init__(called, **properties)

    @staticmethod
    def _create_hive_client(properties: dict[str, str]) -> Any:
        return _Connections(properties)

    @staticmethod
    def identifier_to_database_and_table(
        identifier: str | Identifier, err: type[ValueError] | type[Exception] = ValueError
    ) -> tuple[str, str]:
        """Where a table is; two names that differ in capital letters alone would be one."""
        place = HiveCatalog.identifier_to_database_and_table(identifier, err)  # type: ignore[arg-type]
        if any(one != one.lower() for one in place):
            raise StoreError(
                f"Offline table '{name(place)}': a Hive Metastore tells no capital letters from small ones.",
                "give what it is of a name in small letters, or use another catalog.",
            )
        return place

    def _wait_for_lock(self, database_name: str, table_name: str, lockid: int, open_client: Client) -> LockResponse:
        """Wait for a commit of another writer, and say so if it does not end."""
        for _ in range(_ASKED):
            asked = open_client.check_lock(CheckLockRequest(lockid=lockid))
            if asked.state == LockState.ACQUIRED:
                return asked
            if asked.state != LockState.WAITING:
                break
            threading.Event().wait(_EVERY)
        table = name((database_name, table_name))
        raise StoreError(
            f"Offline table '{table}': another writer has held its lock in the Hive Metastore for {_ASKED * _EVERY:.0f} s.",
            "where that writer is gone, the Metastore lets go of it after `metastore.txn.timeout` if its "
            "AcidHouseKeeperService runs.",
        )

    def _get_default_warehouse_location(self, database_name: str, table_name: str) -> str:
        """Where a new table lies: not in its database's folder.

        Of two who make a database at once, the Metastore takes back what it did for the second, and deletes that folder
        with all that is in it by then.
        """
        return f"{self.properties[WAREHOUSE_LOCATION].rstrip('/')}/{database_name}/{table_name}"


class _Connections:
    """A connection for each who asks: PyIceberg has one, which whoever is done first closes to all others."""

    def __init__(self, properties: dict[str, str]) -> None:
        self._properties, self._mine = properties, threading.local()

    def __enter__(self) -> Client:
        connection = HiveCatalog._create_hive_client(self._properties)
        for one in vars(connection._transport).values():
            if isinstance(one, TSocket):
                one.setTimeout(1_000 * float(self._properties.get(TIMEOUT, 10.0)))
        client = _Guarded(connection.__enter__()._iprot)
        self._mine.opened = [*getattr(self._mine, "opened", []), connection]
        return client

    def __exit__(self, *raised: Any) -> None:
        self._mine.opened.pop().__exit__(*raised)


class _Guarded(Client):  # type: ignore[misc]  # it has no types
    """A client whose commits are refused once the lock that they hold has been given to another.

    The Metastore takes it from whoever is silent for minutes, as one that stood still is, and compares nothing by itself
    before Hive 4, except 2.3.10.
    """

    def lock(self, rqst: LockRequest) -> LockResponse:
        """Ask for a lock."""
        held = super().lock(rqst)
        self._held = held.lockid
        return held

    def alter_table_with_environment_context(
        self, dbname: str, tbl_name: str, new_tbl: HiveTable, environment_context: EnvironmentContext
    ) -> None:
        """Let a table be what a commit has made of it."""
        before = new_tbl.parameters["previous_metadata_location"]
        environment_context.properties |= {
            "expected_parameter_key": "metadata_location",
            "expected_parameter_value": before,
        }
        try:
            self.heartbeat(HeartbeatRequest(lockid=self._held))
            super().alter_table_with_environment_context(dbname, tbl_name, new_tbl, environment_context)
        except (NoSuchLockException, TxnAbortedException) as error:
            raise CommitFailedException(f"The lock of {dbname}.{tbl_name} was given to another writer") from error
        except MetaException as error:
            if "has been modified" not in str(error.message):
                raise
            raise CommitFailedException(f"{dbname}.{tbl_name}: {error.message}") from error
