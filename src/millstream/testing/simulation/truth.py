"""What must hold, whatever has happened: each function raises `AssertionError`, naming the invariant that does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from millstream.buffer.computed import computed_in
from millstream.buffer.lag import records_before, records_behind
from millstream.buffer.topics import ARCHIVE, CHECK, computing_consumer, event_table
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.source import EventStream
from millstream.errors import DiskFull, MillstreamError, StoreError
from millstream.history.events import held
from millstream.project import apply, drain
from millstream.project.compute import compute
from millstream.serve.capture import DAMAGED
from millstream.store.online import metas_of, shard_metas
from millstream.testing.simulation import stored
from millstream.testing.simulation.declared import parts_of
from millstream.testing.simulation.ledger import taken
from millstream.testing.simulation.web import busy

if TYPE_CHECKING:
    from millstream.definitions.group_version import GroupVersion
    from millstream.project.parts import Parts
    from millstream.testing.simulation.process import Process
    from millstream.testing.simulation.world import World

KEYS = (1, 2, 4, 5)
#: What is looked up at each of these reads; events have it now and then.
NOTE = "DE"


def score(world: World, drawn: Sequence[tuple[Any, ...]], web: bool = False) -> str:
    """Requests for scores, over HTTP or in the process itself.

    Args:
        world: the world.
        drawn: each request's keys and fields, as they were drawn, the last of them its moment as a distance (µs) from
            now; None: it says none, which is now.
        web: whether over HTTP, unless a request is being answered.
    """
    now = world.clock.now()
    rows = [
        {"k": k, "other": other, "amount": amount, "note": note, **({} if at is None else {"at": now + at})}
        for k, other, amount, note, at in drawn
    ]
    process = world.process("serve")
    try:
        version, scores, degraded = (_asked if web and not busy() else _scored)(process, rows)
    except DiskFull:
        raise
    except MillstreamError as error:
        assert world.excused or not world.fits(), f"scoring goes on: {error.message}"
        return f"refused: {type(error).__name__}"
    champion = world.champion()
    assert version == champion or (web and world.excused), f"the champion answers: version {version}, not {champion}"
    world.scores |= scores
    return f"scored {list(scores.values())} degraded {degraded}"


def _scored(process: Process, rows: list[dict[str, Any]]) -> tuple[int, dict[str, float], list[bool]]:
    found = process.scoring.score("model", rows).to_pydict()
    return found["version"][0], dict(zip(found["request_id"], found["score"], strict=True)), found["degraded"]


def _asked(process: Process, rows: list[dict[str, Any]]) -> tuple[int, dict[str, float], list[bool]]:
    said = process.web.ask("POST", "/v1/models/model/score", {"rows": rows})
    found = said["rows"]
    scores = {one["request_id"]: one["score"] for one in found} if said.get("captured", True) else {}
    return said["version"], scores, [one["degraded"] for one in found]


def reads(world: World) -> str:
    """What a reader gets now is what `ms.compute` makes of exactly the events that the store says were applied."""
    parts, now = world.process("serve").parts, world.clock.now()
    asked = [{"k": k, "other": 6 - k, "note": NOTE, "at": now} for k in KEYS]
    try:
        read = drain.features(parts, "view", asked, now)
        versions, held = parts.served.versions(), 0
        if _behind(parts, versions, now):
            return "the clock was set back: history is read, which has more than was applied"
    except MillstreamError as error:
        assert world.excused, f"reading goes on: {error.message}"
        return f"refused: {type(error).__name__}"
    computed = _Computed(world, now)
    for one in parts.registry.view("view").groups:
        version = versions[one.group.name]
        before = _applied(world, parts, version)
        if before is None or _ahead(world, version, before):
            continue
        keys = [row[one.keys[0][1]] for row in asked]
        wanted = computed.of(version, keys, before)
        for column in one.columns:
            if column.default is None and column.feature in version.schema:
                right = parts_of(wanted[f"{one.group.name}__{column.feature}"], column)
                found = read[column.column].to_pylist()
                assert found == right, (
                    f"no reader sees a mixture: {column.column} of {version.id} is {found}, not {right}"
                )
        held += 1
    return f"{held} groups right"


def served(world: World) -> str:
    """Captures are recomputed to the bit, and every difference from training is explained."""
    scoring = world.process("serve").scoring
    verified = scoring.verify(None, None)
    assert verified.mismatches == 0, f"verify is clean: {verified.shown}"
    compared = scoring.parity("model", None)
    assert compared.unexplained == 0, f"parity is clean: {compared.shown}"
    return f"verified {verified.requests}"


def settled(world: World) -> str:
    """Once nothing is disturbed any more: nothing is lost, nothing doubled, nothing unfinished, and all agree."""
    nobody_waits(world)
    history(world)
    values(world)
    captures(world)
    letters(world)
    said = served(world)
    leftovers(world)
    if world.archived():
        stored.synced(world)
        stored.stated(world)
    return said


def nobody_waits(world: World) -> None:
    """Every reader of every stream has read all of it, and every version that is wanted can be read."""
    parts = world.process("witness").parts
    unfinished = [one.id for one in apply.unfinished(parts)]
    assert not unfinished, f"nothing unfinished stays: group versions {unfinished}"
    for stream in parts.registry.streams():
        ends = [end for _, end in parts.log.ends(stream.name)]
        checks = [CHECK] if parts.log.atomic else []  # on another its position may be lost, and its letters are not
        for consumer in (*checks, *_archive(world), *(computing_consumer(one.id) for one in _readers(parts, stream))):
            at = _standing(parts, consumer, stream.name)
            behind = records_behind(parts.log, stream.name, [a or 0 for a in at])
            assert not behind, f"other streams go on: '{consumer}' stands at {at} of {ends} in '{stream.name}'"


def _standing(parts: Parts, consumer: str, stream: str) -> list[int | None]:
    """How far a reader is; by what it has written, where the positions that it commits are hints."""
    if parts.log.atomic:
        return parts.log.committed(consumer, stream)
    if consumer == ARCHIVE:
        positions = held(event_table(stream), parts.offline.snapshot(event_table(stream)))
        return [positions.get(partition) for partition in range(len(parts.log.ends(stream)))]
    return computed_in(parts.log, consumer.removeprefix(computing_consumer("")), stream)


def history(world: World) -> None:
    """History holds every event once."""
    parts = world.process("witness").parts
    for stream in parts.registry.streams():
        rows = parts.histories.events().read(stream.name)
        found = Counter(rows.column(0).to_pylist())
        wanted = Counter(next(iter(one.row.values())) for one in world.ledger.counted(stream))
        assert not wanted - found, f"0 lost: '{stream.name}' lacks {dict(wanted - found)}"
        assert not found - wanted, f"0 doubled: '{stream.name}' has {dict(found - wanted)} more"
        acked = world.ledger.acknowledged[stream.name]
        known = {str(next(iter(one.row.values()))) for one in world.ledger.landed[stream.name]}
        assert acked <= known, f"0 lost: '{stream.name}' acknowledged {acked - known}"


def values(world: World) -> None:
    """What is read is what `ms.compute` makes of all that was acknowledged."""
    parts, now = world.process("serve").parts, world.clock.now()
    asked = [{"k": k, "other": 6 - k, "note": NOTE, "at": now} for k in KEYS]
    read, computed = drain.features(parts, "view", asked, now), _Computed(world, now)
    for one in parts.registry.view("view").groups:
        version = parts.served.versions()[one.group.name]
        if one.group.name == "spent" or getattr(version.group, "ttl", None) or (world.jumped and _is_batch(version)):
            continue  # runs of the past are made by backfill alone, and a run that is late confirms later
        wanted = computed.of(version, [row[one.keys[0][1]] for row in asked], None)
        for column in one.columns:
            if column.default is None and column.feature in version.schema:
                right = parts_of(wanted[f"{one.group.name}__{column.feature}"], column)
                found = read[column.column].to_pylist()
                assert found == right, f"served is computed: {column.column} of {version.id} is {found}, not {right}"


def captures(world: World) -> None:
    """Every score that was answered was captured, once and as it was answered."""
    found = world.process("witness").parts.histories.captures("model")
    kept = dict(zip(found["_request_id"].to_pylist(), found["_score"].to_pylist(), strict=True))
    assert len(kept) == found.num_rows, "a capture is there once"
    lost = {one: score for one, score in world.scores.items() if kept.get(one) != score}
    assert not lost, f"every answer is captured: {len(lost)} of {len(world.scores)} are not, or not as answered"


def letters(world: World) -> None:
    """What could not be taken is a dead letter, each once."""
    parts = world.process("witness").parts
    for stream in parts.registry.streams():
        rows = parts.histories.dead_letters(stream.name)
        places = zip(rows["partition"].to_pylist(), rows["position"].to_pylist(), strict=True)
        found = Counter((p, records_before(parts.log, stream.name, {p: position})) for p, position in places)
        wanted = Counter((one.partition, one.place) for one in world.ledger.landed[stream.name] if not one.valid)
        assert found == wanted, f"dead letters: '{stream.name}' has {dict(found)}, not {dict(wanted)}"


def leftovers(world: World) -> None:
    """No half-written file and no dead process's journal stays."""
    data = world.settings.data
    patterns = ("online/.dropped.*", "journal/*/*.open", "models/**/.*", "**/*.tmp")
    found = [str(path.relative_to(data)) for pattern in patterns for path in data.glob(pattern)]
    assert not found, f"nothing unfinished stays: {found}"
    hidden = [path.name for path in world.torn if not path.with_suffix(DAMAGED).exists()]
    assert not hidden, f"damage is named: {hidden} of the journal of captures is not set aside"
    read = {one.states for one in world.process("witness").parts.registry.groups()}
    kept = sorted({folder.name for folder in (data / "online").glob("[!.]*@*")} - read)
    assert not kept, f"what nobody reads goes: the states of {kept} are still there"


class _Computed:
    """What `ms.compute` makes of what landed, for all of `KEYS` at once: a view may read a group by several of its columns.

    Args:
        world: the world.
        now: the instant at which features are asked for.
    """

    def __init__(self, world: World, now: int) -> None:
        self._world, self._now = world, now
        self._known: dict[tuple[object, ...], dict[str, list[Any]]] = {}

    def of(self, version: GroupVersion, keys: list[Any], before: Mapping[str, int] | None) -> dict[str, list[Any]]:
        """The features of some of `KEYS` from the events that landed before some positions; from all that did, for None."""
        upto = {
            source.name: None
            if before is None
            else taken(self._world.process("witness").parts.log, before, source.name)
            for source in version.group.sources
            if isinstance(source, EventStream)
        }
        landed = [(name, place, len(self._world.ledger.landed[name])) for name, place in upto.items()]
        asked = version.id, *map(repr, landed)
        if asked not in self._known:
            self._known[asked] = self._made(version, upto)
        places = [KEYS.index(key) for key in keys]
        return {name: [values[place] for place in places] for name, values in self._known[asked].items()}

    def _made(self, version: GroupVersion, upto: Mapping[str, Any]) -> dict[str, list[Any]]:
        given: dict[Any, Any] = {
            source.name: self._world.ledger.frame(source, upto[source.name])
            if isinstance(source, EventStream)
            else self._world.accounts
            for source in version.group.sources
        }
        name = next(iter(version.group.entity.keys))
        view = FeatureView("computed", request={"note": "string"}, features=[version.group])
        rows = [{name: key, "note": NOTE, "at": self._now} for key in KEYS]
        found: dict[str, list[Any]] = compute(view, given, rows).to_pydict()
        return found


def _applied(world: World, parts: Any, version: GroupVersion) -> dict[str, int] | None:
    """The source positions that a version's shards have applied, where all are at the same."""
    if _is_batch(version):
        return None
    try:
        metas = shard_metas(parts.online, version.states, version.shards)
    except StoreError as error:
        assert world.excused, f"reading goes on: {error.message}"
        return None
    there = [meta for meta in metas if meta is not None and meta.backfilled]
    if len(there) < len(metas):
        return None
    first = dict(there[0].applied)
    return first if all(dict(meta.applied) == first for meta in there) else None


def _ahead(world: World, version: GroupVersion, before: Mapping[str, int]) -> bool:
    """Whether an event was applied that arrived later than now: by a clock that was wrong."""
    return any(
        one.arrival > world.clock.now()
        for source in version.group.sources
        if isinstance(source, EventStream)
        for one in world.ledger.counted(source, taken(world.process("witness").parts.log, before, source.name))
    )


def _behind(parts: Any, versions: Mapping[str, GroupVersion], now: int) -> bool:
    """Whether something was applied later than now."""
    metas = metas_of(parts.online, list(versions.values()))
    return any(meta is not None and meta.applied_at > now for some in metas for meta in some)


def _archive(world: World) -> list[str]:
    return ["archive"] if world.archived() else []


def _is_batch(version: GroupVersion) -> bool:
    return any(not isinstance(source, EventStream) for source in version.group.sources)


def _readers(parts: Any, stream: EventStream) -> list[GroupVersion]:
    return [
        one
        for one in parts.registry.groups()
        if not _is_batch(one) and stream.name in {source.name for source in one.group.sources}
    ]
