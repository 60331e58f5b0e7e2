"""What producers do: they send what happened, and send again what nobody acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from millstream.buffer.log import Log
from millstream.definitions.data_types import INSTANT
from millstream.definitions.source import EventStream
from millstream.errors import DiskFull
from millstream.project import drain
from millstream.testing.simulation.declared import ACCOUNTS
from millstream.testing.simulation.disk import Killed
from millstream.testing.simulation.ledger import WRONG
from millstream.testing.simulation.web import busy

if TYPE_CHECKING:
    from millstream.testing.simulation.world import World

    Take = Callable[[World, str, list[dict[str, Any]]], None]


def send(world: World, stream: str, drawn: Sequence[tuple[Any, ...]], heard: bool) -> str:
    """Events that arrive now; an id says what else an event holds.

    Args:
        world: the world.
        stream: the name of the stream.
        drawn: each event's number and fields, as they were drawn, the last of them how long ago it happened (µs).
        heard: whether the acknowledgement is heard, or lost.
    """
    return _append(world, stream, [_event(world, *one) for one in drawn], heard)


def post(world: World, stream: str, drawn: Sequence[tuple[Any, ...]], heard: bool) -> str:
    """Events over HTTP, or in the process itself while another request is being answered.

    Args:
        world: the world.
        stream: the name of the stream.
        drawn: the events, as `send` takes them.
        heard: whether the acknowledgement is heard, or lost.
    """
    rows = [_event(world, *one) for one in drawn]
    return _append(world, stream, rows, heard, take=_in_process if busy() else _posted)


def ask(world: World, drawn: Sequence[tuple[Any, ...]]) -> str:
    """Examples for a model to learn from, as they happen."""
    now = world.clock.now()
    rows = [
        {"ask": f"a{number}", "k": k, "other": other, "amount": amount, "note": note, "at": now - late}
        for number, k, other, amount, note, late in drawn
    ]
    return _append(world, "asks", rows, True)


def outcome(world: World, drawn: Sequence[tuple[Any, ...]]) -> str:
    """What became of some examples."""
    now = world.clock.now()
    rows = [{"ask": f"a{number}", "y": y, "at": now - late} for number, y, late in drawn]
    return _append(world, "outcomes", rows, True)


def burst(world: World, size: int) -> str:
    """More events of one key within three seconds than its state keeps apart."""
    rows = [_event(world, 1_000 + i, 1, 2, 0.1 * i, "DE", True, i * 40_000) for i in range(size)]
    return _append(world, "events", rows, True)


def retry(world: World) -> str:
    """A producer that heard nothing sends again."""
    if not world.waiting:
        return "nothing"
    return _append(world, *world.waiting.pop(0), True)


def table(world: World, drawn: Sequence[tuple[Any, ...]]) -> str:
    """Rows that could not be known before: ten minutes after their time is after the last run.

    Also when the clock was set back since that run: it has looked for all that its table says was known by then.
    """
    now = max(world.clock.now(), world.furthest)
    world.accounts += [{"k": k, "x": x, "s": s, "at": now + late} for k, x, s, late in drawn]
    kinds = {"k": pa.int64(), "x": pa.float64(), "s": pa.string(), "at": INSTANT}
    written = {name: pa.array([one[name] for one in world.accounts], kind) for name, kind in kinds.items()}
    pq.write_table(pa.table(written), world.folder / str(ACCOUNTS.path))
    return ""


def _event(world: World, number: int, k: Any, other: Any, x: Any, s: Any, ok: Any, late: int) -> dict[str, Any]:
    now = world.clock.now()
    fresh = {"id": f"{'w' if x == WRONG else 'e'}{number}", "k": k, "other": other, "x": x, "s": s, "ok": ok,
             "at": now - late}  # fmt: skip
    return {**world.events.setdefault(fresh["id"], fresh), "seen": now}


def _in_process(world: World, stream: str, rows: list[dict[str, Any]]) -> None:
    drain.append(world.process("producer").parts, stream, rows, history=False)


def _posted(world: World, stream: str, rows: list[dict[str, Any]]) -> None:
    said = world.process("serve").web.ask("POST", f"/v1/streams/{stream}/events", rows)
    assert said["accepted"] == len(rows), f"an append is whole or nothing: {said['accepted']} of {len(rows)} accepted"


def _append(world: World, stream: str, rows: list[dict[str, Any]], heard: bool, take: Take = _in_process) -> str:
    parts = world.process("producer").parts
    declared = {one.name: one for one in parts.registry.streams()}
    if stream not in declared or not rows:
        return "no such stream"
    definition = declared[stream]
    again = definition.deduplicate is not None
    held = _held(parts.log, stream)
    try:
        take(world, stream, rows)
    except (Killed, DiskFull):
        if again:
            world.waiting.append((stream, rows))
        raise
    finally:
        _landed(world, definition, rows, held)
    if not heard and again:
        world.waiting.append((stream, rows))
        return "acknowledgement lost"
    world.ledger.acknowledge(stream, rows)
    return f"acknowledged {len(rows)}"


def _landed(world: World, stream: EventStream, rows: list[dict[str, Any]], held: list[int]) -> None:
    """Note what is in the log, whether or not anybody was told: it is all there, or nothing is."""
    after = _held(world.process("witness").parts.log, stream.name)
    came = sum(after) - sum(held)
    assert came in (0, len(rows)), f"an append is whole or nothing: {came} of {len(rows)} rows of '{stream.name}'"
    if came:
        world.ledger.land(stream, rows, world.clock.now(), held)
        if stream.partition_by is None:
            grown = next(p for p, (was, now) in enumerate(zip(held, after, strict=True)) if now > was)
            world.ledger.place(stream.name, len(rows), grown, held[grown])


def _held(log: Log, stream: str) -> list[int]:
    """How many records each partition of a stream has ever taken."""
    return [log.behind(stream, partition, 0).records for partition in range(len(log.ends(stream)))]
