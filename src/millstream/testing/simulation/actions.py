"""What may happen to a project: drawn whole from a seed, so that any part of it can be left out and the rest replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
LAYERS = ("compute", "ingest", "batch", "archive", "sync", "backfill", "ship", "upkeep")
PROCESSES = ("compute", "ingest", "batch", "sync", "serve", "monitor")
KINDS_OF_FILES = ("log", "online", "journal", "warehouse")
DISKS = ("log", "log", "log", "online", "repeats", "registry", "catalog", "warehouse", "journal", "models")
"""Places that may have no room; the log most often, as all that producers are told depends on it."""

_KEYS = (1, 2, 4, 5, None)  # two in each shard
_AMOUNTS = (None, 0.1, 0.2, 1.0, -3.5, 1e9 + 0.01, 12.34, -0.0)
_TEXTS = (None, "DE", "FR", "é", "")
_LATES = (0, 0, 0, 1, SECOND, 4 * SECOND, MINUTE, 20 * MINUTE, 3 * HOUR, 2 * DAY,
          -SECOND, -4 * MINUTE, -5 * MINUTE, -HOUR)  # fmt: skip
_FLAGS = (True, True, False, None)
_GAPS = (1, SECOND, 3 * SECOND, MINUTE, 4 * MINUTE, 10 * MINUTE, HOUR, HOUR, 3 * HOUR, DAY)
_MOMENTS = (None, None, None, None, 0, -4 * SECOND, -MINUTE, -HOUR, SECOND)
_JUMPS = (DAY, -DAY, HOUR, -HOUR, -SECOND)


@dataclass(frozen=True)
class Action:
    """One thing that happens.

    Attributes:
        name: what, as the world calls it.
        given: with what.
        fate: what its writes meet: None, or the number of a write and "before", "after" or "meanwhile"; or that of a read
            and "between".
        turn: for "meanwhile" and "between", what happens then.
        asleep: in place of that: how many of the following actions happen then, while it is frozen.
    """

    name: str
    given: tuple[Any, ...] = ()
    fate: tuple[int, str] | None = None
    turn: Action | None = None
    asleep: int = 0

    def __str__(self) -> str:
        said = f"{self.name}({', '.join(map(repr, self.given))})"
        if self.fate is not None:
            then = f": {self.turn}" if self.turn else f": frozen for {self.asleep}" if self.asleep else ""
            said += f" [{self.fate[1]} {self.fate[0]}{then}]"
        return said


def drawn(random: Random, steps: int) -> list[Action]:
    """So many actions."""
    return [_action(random) for _ in range(steps)]


def _action(random: Random) -> Action:
    name = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    given = _MADE[name](random) if name in _MADE else ()
    often = 0.7 if given[:1] in (("archive",), ("sync",)) else 0.3
    if name in _UNHARMED or random.random() > often:
        return Action(name, given)
    kind = random.choice(("before", "after", "after", "meanwhile", "between"))
    number = random.randrange(25) if kind == "between" else random.choice((0, 0, 0, 1, 1, 2, 3, 4, 6, 9))
    if kind not in ("meanwhile", "between"):
        return Action(name, given, (number, kind))
    if name in _FREEZE and random.random() < 0.3:
        return Action(name, given, (number, kind), asleep=random.randint(1, 6))
    return Action(name, given, (number, kind), _turn(random, name, given))


def _turn(random: Random, name: str, given: tuple[Any, ...]) -> Action:
    """What somebody else does in the midst of a step: as often as not, the same."""
    if name == "layer" and random.random() < 0.5:
        return Action(name, (given[0], False))
    others = ("layer", "layer", "layer", "score", "reads", "wake")
    name = random.choice(others if name in _SENDING else (*others, "send"))
    return Action(name, _MADE[name](random))


def _send(random: Random) -> tuple[Any, ...]:
    events = tuple(_event(random) for _ in range(random.randint(1, 6)))
    return random.choice(("events", "events", "events", "more")), events, random.random() > 0.15


def _event(random: Random) -> tuple[Any, ...]:
    """A number that tells it from others, and its fields; one in thirty does not fit the stream."""
    amount: Any = "much" if random.random() < 1 / 30 else random.choice(_AMOUNTS)
    return (random.randrange(40), random.choice(_KEYS), random.choice(_KEYS), amount, random.choice(_TEXTS),
            random.choice(_FLAGS), random.choice(_LATES))  # fmt: skip


def _asks(random: Random) -> tuple[Any, ...]:
    """Examples, as they are seen by who asks for a score."""
    return (
        tuple((random.randrange(8), random.choice(_KEYS[:4]), random.choice(_KEYS), random.choice(_AMOUNTS),
               random.choice(_TEXTS), random.choice(_LATES)) for _ in range(random.randint(1, 6))),
    )  # fmt: skip


def _outcomes(random: Random) -> tuple[Any, ...]:
    return (
        tuple((random.randrange(8), random.choice((True, False, None)), random.choice(_LATES))
              for _ in range(random.randint(1, 6))),
    )  # fmt: skip


def _layer(random: Random) -> tuple[Any, ...]:
    weights = (6, 6, 3, 0.6, 0.5, 2, 2, 0.3)
    return random.choices(LAYERS, weights)[0], random.random() < 0.15


def _score(random: Random) -> tuple[Any, ...]:
    count, web = random.randint(1, 3), random.random() < 0.5
    return (
        tuple((random.choice(_KEYS[:4]), random.choice(_KEYS), random.choice(_AMOUNTS), random.choice(_TEXTS),
               random.choice(_MOMENTS)) for _ in range(count)),
        web,
    )  # fmt: skip


def _table(random: Random) -> tuple[Any, ...]:
    lates = (-9 * MINUTE, -MINUTE, 0, 2 * MINUTE, HOUR)
    return (
        tuple((random.choice(_KEYS), random.choice(_AMOUNTS), random.choice(_TEXTS), random.choice(lates))
              for _ in range(random.randint(1, 3))),
    )  # fmt: skip


def _change(random: Random) -> tuple[Any, ...]:
    changes = {
        "where": (None, "ok", "x > 0", "s <> 'DE'"), "derived": ("x * 2", "x + 1", "x - 1"), "factor": (2, 3, 4),
        "deduplicate": (True, True, False), "extra": (True, False), "window": ("10m", "1h", None), "ttl": (None, "25m"),
    }  # fmt: skip
    name = random.choice(list(changes))
    return ((name, random.choice(changes[name])),)


_WEIGHTS = {
    "send": 20, "retry": 4, "layer": 50, "score": 12, "reads": 6, "advance": 11, "jump": 0.7, "table": 3, "change": 3,
    "anew": 2, "deploy": 2, "rollback": 1.5, "trim": 1, "season": 0.5, "zombie": 2, "wake": 4, "fill": 1.8, "room": 3,
    "forget": 1, "restart": 1.5, "damage": 0.3, "lose_power": 0.3, "served": 0.7, "burst": 0.7,
    "post": 4, "ask": 4, "outcome": 3, "train": 1.5, "whole": 1, "flip": 1.6, "restore": 2, "grow": 0.7,
}  # fmt: skip
_MADE: dict[str, Callable[[Random], tuple[Any, ...]]] = {
    "send": _send,
    "post": _send,
    "ask": _asks,
    "outcome": _outcomes,
    "layer": _layer,
    "score": _score,
    "reads": lambda _: (),
    "advance": lambda random: (random.choice(_GAPS),),
    "season": lambda random: (random.choice((3 * HOUR, DAY, 2 * DAY)),),
    "jump": lambda random: (random.choice(_JUMPS),),
    "table": _table,
    "change": _change,
    "whole": lambda random: (random.random() < 0.6,),
    "flip": lambda random: (random.choice(KINDS_OF_FILES), random.randrange(1 << 20)),
    "grow": lambda random: (random.choice(("events", "events", "events", "more", "asks", "outcomes")),),
    "anew": lambda random: (random.choice(("g", "g", "o")),),
    "zombie": lambda random: (random.choice(PROCESSES),),
    "wake": lambda random: (random.randrange(4), *_layer(random)[:1]),
    "fill": lambda random: (random.choice(DISKS),),
    "restart": lambda random: (random.choice((None, *PROCESSES)),),
    "damage": lambda random: (random.choice(("g", "o")), random.randrange(2)),
    "burst": lambda random: (random.randint(50, 90),),
}
#: What writes nothing itself, or what nothing in the project could be blamed for.
_UNHARMED = {
    "reads",
    "advance",
    "jump",
    "table",
    "zombie",
    "fill",
    "room",
    "forget",
    "restart",
    "served",
    "damage",
    "lose_power",
    "flip",
    "restore",
}
#: Events come from these: in the midst of one, no other can be told from it.
_SENDING = ("send", "post", "ask", "outcome", "retry", "burst")
#: What may be frozen for longer than the turn of another.
_FREEZE = ("layer", "trim", "season")
