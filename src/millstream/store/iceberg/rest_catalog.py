"""A REST catalog that does not wait for ever."""

from __future__ import annotations

from typing import Any

from pyiceberg.catalog.rest import RestCatalog
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from millstream.store.iceberg.shared import TIMEOUT


class PatientRestCatalog(RestCatalog):
    """PyIceberg's REST catalog, of which each request ends in time: an error rather than a wait without end."""

    def _create_session(self) -> Session:
        session = super()._create_session()
        seconds = float(self.properties.get(TIMEOUT, 10.0))
        for scheme in ("http://", "https://"):
            session.mount(scheme, _InTime(seconds))
        return session


class _InTime(HTTPAdapter):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def send(self, request: PreparedRequest, *given: Any, **options: Any) -> Response:
        """Send a request, and give it up after a while."""
        options["timeout"] = options.get("timeout") or self._seconds
        return super().send(request, *given, **options)
