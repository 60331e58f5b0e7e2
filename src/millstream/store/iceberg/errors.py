"""Whatever goes wrong in an Iceberg table, as one sentence about that table."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.errors import CorruptState, DiskFull, MillstreamError, StoreError


@contextmanager
def clear(folder: Path, table: str) -> Iterator[None]:
    """Whatever goes wrong below comes out as one sentence about the table ("*" for all of them)."""
    from pyiceberg.exceptions import RESTError
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except MillstreamError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull.writing(folder) from error
        if isinstance(error, FileNotFoundError):
            raise unreadable(folder, table, error) from error
        raise StoreError(f"Offline table '{table}' cannot be used: {_brief(error)}.") from error
    except OperationalError as error:
        if "full" in str(error.orig):
            raise DiskFull.writing(folder) from error
        raise StoreError(f"Offline table '{table}': its catalog cannot be used: {_brief(error.orig)}.") from error
    except RESTError as error:
        raise StoreError(f"Offline table '{table}': its catalog cannot be used: {_brief(error)}.") from error
    except Exception as error:  # whatever a reader makes of what no writer wrote
        raise unreadable(folder, table, getattr(error, "orig", error)) from error


def unreadable(folder: Path, table: str, error: object) -> CorruptState:
    """Return what to say of a table, or of the catalog of all of them, that does not read.

    Args:
        folder: the store's folder.
        table: the table's name, "*" for all of them.
        error: what a library has said, an error or a sentence; one of SQLite's is of the catalog, whatever the table.
    """
    what = "catalog 'catalog.db'" if table == "*" or isinstance(error, sqlite3.Error) else f"table '{table}'"
    return CorruptState(
        f"Offline store '{folder}': its {what} does not read as what was written: {_brief(error)}.",
        f"restore '{folder}' from a copy; the log still holds what its retention keeps.",
    )


def _brief(error: object) -> str:
    """The first line of what a library said, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
