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
    identity, revision = _noted(log)
    if not identity:
        return None
    mine, now = registry.identity(), registry.revision()
    if mine != identity:
        return f"it is not registry {identity:08x}, which the log and the stores have followed"
    return f"it is at revision {now}, before revision {revision}, which was gone by" if now < revision else None


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
    if not anew:
        refuse_registry_behind(log, registry)
    identity, revision = registry.identity(), registry.revision()
    noted = _noted(log)
    if not identity or (noted[0] == identity and noted[1] >= revision):
        return revision
    log.create(REGISTRY, 1)
    try:
        with log.transaction() as work:
            for name, number in ((_IDENTITY, identity), (_REVISION, revision)):
                work.commit(name, REGISTRY, 0, log.committed(name, REGISTRY)[0], number)
    except Fenced:
        pass  # another process has noted it
    return revision


def noted_revision(log: OwnLog) -> int:
    """Return the newest revision that was gone by, 0 before any was."""
    return _noted(log)[1]


def _noted(log: OwnLog) -> tuple[int, int]:
    """The identity and the revision that the log has, 0 where it has none."""
    if REGISTRY not in log.topics():
        return 0, 0
    found = [log.committed(name, REGISTRY)[0] or 0 for name in (_IDENTITY, _REVISION)]
    return found[0], found[1]
