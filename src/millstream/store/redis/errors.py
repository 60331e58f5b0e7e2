"""What a server refuses, said once: the thing, what it said, and what to do."""

from __future__ import annotations

from hiredis import ReplyError

from millstream.errors import DiskFull, MillstreamError, StoreError

OLDEST = (6, 2)
"""The oldest version of Redis; every Valkey is newer, and says which Redis it is like."""
_LET_IN = (
    "look at the user in 'online.url', and at the password: `password_env` in [online] names the variable of the "
    "environment that holds it, or `password_file` a file."
)
_AGAIN = "layers try again by themselves, and scoring goes on from what can be read."
_HINTS = {
    "WRONGPASS": _LET_IN,
    "NOAUTH": _LET_IN,
    "NOPERM": "allow the user all commands on the keys of this project, and INFO, CLUSTER and SCRIPT.",
    "LOADING": f"it reads its data from disk; {_AGAIN}",
    "CLUSTERDOWN": f"look at the nodes of the cluster; {_AGAIN}",
    "MASTERDOWN": f"its primary is not there; {_AGAIN}",
    "READONLY": "it is a replica: name the primary in 'online.url', or the sentinels with `service`, which know it.",
    "WRONGTYPE": "another program keeps something under this project's names: set `prefix` in [online].",
    "BUSY": f"a script of another program keeps it; {_AGAIN}",
}
_NO_ROOM = {
    "OOM": "it has no memory left: raise its `maxmemory`, or keep fewer keys.",
    "MISCONF": "it cannot write to its disk: free space there.",
}


def code_of(error: ReplyError) -> str:
    """Return the word that an error of a server begins with.

    >>> code_of(ReplyError("MOVED 7 127.0.0.1:7001"))
    'MOVED'
    """
    return str(error).partition(" ")[0]


def unreachable(where: str, why: str) -> StoreError:
    """Return the error that a server cannot be reached, and why."""
    return StoreError(
        f"Online store '{where}' cannot be reached: {why}.", f"look at its server, and at 'online.url'; {_AGAIN}"
    )


def refusal(where: str, error: ReplyError) -> MillstreamError:
    """Return what a server's error means.

    >>> refusal("redis://a:6379/0", ReplyError("OOM command not allowed")).code
    'MS701'
    """
    code, said = code_of(error), str(error).rstrip(".")
    if "AUTH" in said and code == "ERR":
        code = "WRONGPASS"
    if "-OOM" in said or code in _NO_ROOM:  # from within a script, the code stands further on
        return DiskFull(f"Online store '{where}' takes no more: {said}.", _NO_ROOM.get(code, _NO_ROOM["OOM"]))
    return StoreError(f"Online store '{where}' refuses: {said}.", _HINTS.get(code, f"look at its server; {_AGAIN}"))


def refuse_unfit(where: str, facts: dict[str, str]) -> None:
    """Raise `StoreError` when a server is too old, or throws keys away when its memory is full."""
    version = facts.get("redis_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        raise StoreError(
            f"Online store '{where}' is Redis {version}; it must be {'.'.join(map(str, OLDEST))} or newer.",
            "any Valkey will do, too.",
        )
    policy = facts.get("maxmemory_policy", "")
    if policy.startswith("allkeys") and facts.get("maxmemory", "0") != "0":
        raise StoreError(
            f"Online store '{where}' throws keys away when its memory is full: its maxmemory-policy is '{policy}'.",
            "set it to 'noeviction': what is thrown away reads as if nothing had happened.",
        )
