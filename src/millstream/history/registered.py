"""Whether the registry is still the one that a project's log and stores have followed, and no older than it was then.

A registry that was restored from a copy, emptied or replaced has other definitions under the numbers of group versions
that the stores hold states of. It cannot say so itself, for all that it holds has stepped back with it. So its identity,
and the newest revision that anybody has gone by, are records in the log: of one identity the greatest revision counts, in
whatever order several processes write theirs, and only a repair lets another identity take its place.
"""

from __future__ import annotations

import msgspec

from millstream.buffer.log import Batch, OwnLog
from millstream.buffer.reading import through
from millstream.buffer.topics import REGISTRY
from millstream.errors import LogError, SteppedBack
from millstream.registry.definitions import Registry

_IDENTITY, _REVISION = "identity", "revision"
"""The consumers whose positions said it before there were records of it."""
HINT = "restore all parts of the project from one copy, or run `millstream repair`, which goes on with what there is."


class _Note(msgspec.Struct, frozen=True):
    """Which registry was gone by, and up to which revision.

    Args:
        identity: the registry's, 0 for none.
        revision: the revision.
        anew: whether it takes the place of whatever was noted before.
        format: the format of the record.
    """

    identity: int = 0
    revision: int = 0
    anew: bool = False
    format: int = 1

    def then(self, later: _Note) -> _Note:
        """What is noted once a later note is read too."""
        if later.anew or not self.identity:
            return later
        return max(self, later, key=lambda note: note.revision) if later.identity == self.identity else self


def registry_behind(log: OwnLog, registry: Registry) -> str | None:
    """Return how the registry differs from the one that was gone by, or None when it does not."""
    return _difference(_noted(log)[0], _now(registry))


def refuse_registry_behind(log: OwnLog, registry: Registry) -> None:
    """Raise `SteppedBack` when the registry is older than the one that was gone by, or another one."""
    found = registry_behind(log, registry)
    if found is not None:
        raise SteppedBack(f"Registry: {found}.", HINT)


def note_registry(log: OwnLog, registry: Registry, *, anew: bool = False) -> int:
    """Note in the log which registry is gone by, and return its revision.

    Args:
        log: the project's log.
        registry: the registry.
        anew: whether it takes the place of another one that was noted.

    Raises:
        SteppedBack: when it is older than the one that was gone by, or another one.
    """
    noted, end = _noted(log)  # before the registry is asked: another process may note what it has applied meanwhile
    now = _now(registry)
    behind = None if anew else _difference(noted, now)
    if behind is not None:
        raise SteppedBack(f"Registry: {behind}.", HINT)
    if not now.identity or (end and noted.identity == now.identity and noted.revision >= now.revision):
        return now.revision
    log.create(REGISTRY, 1)
    log.append(REGISTRY, 0, Batch(msgspec.json.encode(msgspec.structs.replace(now, anew=anew)), "bytes", 1))
    log.trim(REGISTRY, 0, end)  # what was read before, which it holds
    return now.revision


def noted_revision(log: OwnLog) -> int:
    """Return the newest revision that was gone by, 0 before any was."""
    return _noted(log)[0].revision


def _now(registry: Registry) -> _Note:
    """The identity and the revision that the registry has."""
    return _Note(registry.identity(), registry.revision())


def _difference(noted: _Note, now: _Note) -> str | None:
    """How the registry differs from the one that was gone by; it does not where none was."""
    if not noted.identity:
        return None
    if now.identity != noted.identity:
        return f"it is not registry {noted.identity:08x}, which the log and the stores have followed"
    if now.revision < noted.revision:
        return f"it is at revision {now.revision}, before revision {noted.revision}, which was gone by"
    return None


def _noted(log: OwnLog) -> tuple[_Note, int]:
    """What the log has noted, and where its records end: 0 where there are none."""
    if REGISTRY not in log.topics():
        return _Note(), 0
    while True:
        [(first, end)] = log.ends(REGISTRY)
        if not end:
            identity, revision = (log.committed(name, REGISTRY)[0] or 0 for name in (_IDENTITY, _REVISION))
            return _Note(identity, revision), 0
        found = _Note()
        try:
            for records in through(log, REGISTRY, 0, first, end):
                for payload in records.payloads:
                    found = found.then(_note(payload))
        except LogError:
            if log.ends(REGISTRY)[0][0] <= first:
                raise
            continue  # another process has noted what it read, beyond the end of then, and trimmed it
        return found, end


def _note(payload: bytes) -> _Note:
    try:
        note = msgspec.json.decode(payload, type=_Note)
        if note.format == 1:
            return note
    except msgspec.DecodeError:
        pass
    raise LogError(
        f"Topic '{REGISTRY}' holds a note that this version of Millstream does not read.",
        "use the version that wrote it, or a later one.",
    )
