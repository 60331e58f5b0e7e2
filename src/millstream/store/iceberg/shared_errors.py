"""Whatever goes wrong with a shared catalog or its storage, as one sentence that says which of them it is."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from millstream.errors import CorruptState, DiskFull, MillstreamError, ProjectError, StoreError, first_line
from millstream.store.s3 import S3

_EXTRAS = {
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
    "thrift": "hive",
    "puresasl": "hive",
    "hive_metastore": "hive",
}
_WAITS = "look at the server, and at `catalog` in [offline]; what waits for it tries again."


@contextmanager
def clear(catalog: Mapping[str, str], s3: S3, table: str) -> Iterator[None]:
    """Whatever goes wrong below comes out as one sentence about a table.

    Args:
        catalog: the properties of the catalog.
        s3: the storage of its files.
        table: the table's name, "*" for all of them.
    """
    what, place = f"Offline table '{table}'", shown(catalog)
    try:
        yield
    except MillstreamError:
        raise
    except OSError as error:
        raise _of_system(what, place, s3, error) from error
    except Exception as error:
        raise _of_catalog(what, place, catalog, error) from error


def shown(catalog: Mapping[str, str]) -> str:
    """Where a catalog is, for a message: without user, password and parameters.

    >>> shown({"type": "sql", "uri": "postgresql+psycopg://ada:lovelace@db/lake?sslmode=require"})
    'sql catalog at postgresql://db/lake'
    """
    place = re.sub(r"\+\w+(?=:)|(?<=//)[^/]*@|\?.*", "", catalog.get("uri", ""))
    return f"{catalog.get('type', 'own')} catalog at {place or 'no uri'}"


def _of_system(what: str, place: str, s3: S3, error: OSError) -> MillstreamError:
    """What to say of an error of files, or of a connection to a catalog, which `requests` counts among them."""
    from requests import RequestException

    if isinstance(error, RequestException):
        why = "it has not answered in time" if "timed out" in str(error) else "it cannot be reached"
        return StoreError(f"{what}: the {place}: {why}.", _WAITS)
    if (said := s3.explained(what, error)) is not None:
        return said
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull.writing(s3.endpoint or "the storage of the offline store")
    if isinstance(error, FileNotFoundError):
        return CorruptState(
            f"{what}: a file that its catalog names is not there: {first_line(error)}.",
            "restore it from a copy, or from an earlier version of the object where the bucket keeps versions.",
        )
    return StoreError(f"{what} cannot be used: {first_line(error)}.")


def _of_catalog(what: str, place: str, catalog: Mapping[str, str], error: Exception) -> MillstreamError:
    """What to say of an error of a catalog, or of what is read from a table."""
    from pyiceberg.exceptions import ForbiddenError, NotInstalledError, OAuthError, RESTError, UnauthorizedError
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    if isinstance(error, ImportError | NotInstalledError | NoSuchModuleError):
        return _without_library(place, error)
    if isinstance(error, DBAPIError):
        said = first_line(error.orig)
        refused = "authentication failed" in said or "no password supplied" in said
        return StoreError(f"{what}: the {place} cannot be used: {said}.", _SECRET if refused else _WAITS)
    if isinstance(error, OAuthError | UnauthorizedError | ForbiddenError):
        return StoreError(f"{what}: the {place} refuses us: {first_line(error)}.", _SECRET)
    if isinstance(error, RESTError):
        return StoreError(f"{what}: the {place} cannot be used: {first_line(error)}.", _WAITS)
    if isinstance(error, ArgumentError) or (
        isinstance(error, ValueError | KeyError) and "catalog" in str(error).lower()
    ):
        return ProjectError(
            f"Settings: `catalog` in [offline] names no catalog that can be opened ({type(error).__name__}).",
            'it has PyIceberg\'s properties, such as {type = "rest", uri = "https://catalog.example.com"}.',
        )
    if type(error).__module__.startswith(("thrift", "hive_metastore")):
        return _of_metastore(f"{what}: the {place}", error)
    return CorruptState(
        f"{what}: what the {place} and its storage hold of it does not read as what was written: {first_line(error)}.",
        "restore it from a copy; the log still holds what its retention keeps.",
    )


def _of_metastore(what: str, error: Exception) -> StoreError:
    """What to say of an error of a Hive Metastore, or of the connection to one."""
    said = first_line(getattr(error, "message", None) or error)
    if "timed out" in said or "timeout" in said:
        return StoreError(f"{what}: it has not answered in time.", _WAITS)
    if "connect to any" in said or "resolve" in said:
        return StoreError(f"{what}: it cannot be reached.", _WAITS)
    if "Invalid method name" in said:
        return StoreError(f"{what} cannot be used: {said}.", "PyIceberg speaks to a Metastore before Hive 4.")
    return StoreError(f"{what} cannot be used: {said}.", _WAITS)


_SECRET = "look at `catalog` in [offline], and at its secret: `catalog_secret_env` or `catalog_secret_file`."


def _without_library(place: str, error: Exception) -> ProjectError:
    library = getattr(error, "name", None) or first_line(error)
    root = library.split(".")[0]
    extra = _EXTRAS.get(root, "hive" if "hive" in library.lower() else "")
    return ProjectError(
        f"Settings: the {place} needs a package that is not installed: {library}.",
        f"pip install 'millstream[{extra}]'" if extra else f"pip install {root}",
    )
