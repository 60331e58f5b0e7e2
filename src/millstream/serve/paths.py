"""What a caller most likely meant by a path that leads nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

from millstream.errors import NotFound

_LONGEST, _PARTS = 200, 8  # how much of a path is looked at: comparing texts costs their lengths' product
_ALIKE = 0.6
_NAMES = {"models": "MODEL", "views": "VIEW", "streams": "STREAM"}


def no_path(path: str, routes: Iterable[tuple[str, ...]]) -> NotFound:
    """Return the error (404) of a path that leads nowhere; its hint is the nearest one, with the name that was given.

    Args:
        path: the path of the request.
        routes: the paths there are: alone ("/livez",), or as what is named and what is done ("models", "score").

    >>> no_path("/v1/model/fraud/scores", [("models", "score"), ("/livez",)]).hint
    "did you mean '/v1/models/fraud/score'?"
    """
    routes, path = list(routes), path[:_LONGEST]
    meant = [one for route in routes for one in _meant(path, route)]
    alike, close = max(meant, default=(0.0, ""))
    return NotFound(
        f"Path '{path}' leads nowhere.",
        field="path",
        given=path,
        expected=", ".join(_full(route) for route in routes),
        hint=f"did you mean '{close}'?" if alike >= _ALIKE else "/openapi.json describes every path.",
    )


def _full(route: tuple[str, ...], name: str = "") -> str:
    return route[0] if len(route) == 1 else f"/v1/{route[0]}/{name or _NAMES[route[0]]}/{route[1]}"


def _meant(path: str, route: tuple[str, ...]) -> Iterator[tuple[float, str]]:
    """How alike a path is to a route, and the route in full, taking each part of the path for the name in turn."""
    parts = [part for part in path.split("/") if part][:_PARTS]
    if len(route) == 1:
        yield _alike(parts, [part for part in route[0].split("/") if part]), _full(route)
        return
    wanted = ["v1", *route]
    yield _alike(parts, wanted), _full(route)
    for place, name in enumerate(parts):
        yield _alike(parts[:place] + parts[place + 1 :], wanted), _full(route, name)


def _alike(parts: list[str], wanted: list[str]) -> float:
    return SequenceMatcher(None, "/".join(parts).casefold(), "/".join(wanted).casefold()).ratio()
