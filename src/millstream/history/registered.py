"""Whether the registry is still the one that a project's log and stores have followed, and no older than it was then.

A registry that was restored from a copy, emptied or replaced has other definitions under the numbers of group versions
that the stores hold states of. So its identity, and the newest revision that anybody has gone by, are kept in the log.
"""

from __future__ import annotations

from millstream.buffer.log import OwnLog
from millstream.buffer.topics import REGISTRY
from millstream.errors import Fenced, SteppedBack
from millstream.registry.definitions import Registry

_IDENTITY, _REVISION = "identity", "revision"


def registry_behind(log: OwnLog, registry: Registry) -> str | None:
    """Return how the registry differs from the one that was gone by, or None when it does not."""
    noted = _noted(log)
    return _difference(noted, _now(registry)) if noted[0] else None


def refuse_registry_behind(log: OwnLog, registry: Registry) -> None:
    """Raise `SteppedBack` when the registry is older than the one that was gone by, or another one."""
    found = registry_behind(log, registry)
    if found is not None:
        raise SteppedBack(f"Registry: {found}.", HINT)


HINT = "restore all parts of the project from one copy, or run `millstream repair`, which goes on with what there is."


def note_registry(log: OwnLog, registry: Registry, *, anew: bool = False) -> int:
    """Note in the log which registry is gone by, and return its revision.

    Args:
        log: the project's log.
        registry: the registry.
        anew: whether it takes the place of another one that was noted.

    Raises:
        SteppedBack: when it is older than the one that was gone by, or another one.
    """
    known = _committed(log)  # before the registry is asked: another process may note what it has applied meanwhile
    noted = known[0] or 0, known[1] or 0
    identity, revision = now = _now(registry)
    behind = _difference(noted, now) if noted[0] and not anew else None
    if behind is not None:
        raise SteppedBack(f"Registry: {behind}.", HINT)
    if not identity or (noted[0] == identity and noted[1] >= revision):
        return revision
    log.create(REGISTRY, 1)
    try:
        with log.transaction() as work:
            for name, before, number in zip((_IDENTITY, _REVISION), known, now, strict=True):
                work.commit(name, REGISTRY, 0, before, number)
    except Fenced:
        pass  # another process has noted it
    return revision


def _now(registry: Registry) -> tuple[int, int]:
    """The identity and the revision that the registry has."""
    return registry.identity(), registry.revision()


def _difference(noted: tuple[int, int], now: tuple[int, int]) -> str | None:
    """How the registry differs from the one that was gone by."""
    (identity, revision), (mine, at) = noted, now
    if mine != identity:
        return f"it is not registry {identity:08x}, which the log and the stores have followed"
    return f"it is at revision {at}, before revision {revision}, which was gone by" if at < revision else None


def noted_revision(log: OwnLog) -> int:
    """Return the newest revision that was gone by, 0 before any was."""
    return _noted(log)[1]


def _noted(log: OwnLog) -> tuple[int, int]:
    """The identity and the revision that the log has, 0 where it has none."""
    identity, revision = _committed(log)
    return identity or 0, revision or 0


def _committed(log: OwnLog) -> tuple[int | None, int | None]:
    """The identity and the revision as they were committed, None where they never were."""
    if REGISTRY not in log.topics():
        return None, None
    return log.committed(_IDENTITY, REGISTRY)[0], log.committed(_REVISION, REGISTRY)[0]
