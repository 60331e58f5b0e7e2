"""Reading 55 features in 8 groups, as serving does, beside Feast's `get_online_features` on SQLite.

Fair: both hold the same values under the same keys on the same disk, both are warm, and both are measured in process, from
keys to Python's values by column: nothing is left to be made once somebody asks for a value. Feast looks up finished values;
ours are folded states, valued at the instant of the read. Feast answers with a message, whose `to_dict()` gives the values;
what the message alone takes is on a line of its own, beside our columns as they are read. A further line has 55 features of
which fifteen tell values apart, decay, or are of windows of events, beside the others.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns
from benchmarks.peers import Peer, peer
from benchmarks.world import NOW, PAYMENTS, USER, arrived, groups_with_values, payments, serving_groups
from millstream.clock import SimulatedClock
from millstream.definitions import StreamFeatureGroup
from millstream.definitions.group_version import GroupVersion
from millstream.fold import encode_key, fold, layout_of, prepare, shard_of
from millstream.serve.reader import FeatureReader
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import ShardMeta
from millstream.testing.shards import held

EVENTS_OF_A_USER = 60
DAYS = 30


class Served:
    """Users with states in a store, and a reader of the 55 features of them."""

    def __init__(self, folder: Path, users: int, groups: Sequence[StreamFeatureGroup]) -> None:
        self.users = users
        self.groups = {group.name: [column.name for column in group.columns] for group in groups}
        self.versions = {group.name: GroupVersion(group, 1, "live", True) for group in groups}
        self.store = LmdbOnlineStore(folder / "online", map_gib=4)
        self._fill(arrived(payments(users * EVENTS_OF_A_USER, users, DAYS)))
        view = ms.FeatureView("bench", request={}, features=groups)
        self.reader = FeatureReader(self.store, view, self.versions, SimulatedClock(NOW))
        fields = {"amount": "float64", "fee": "float64", "status": "string"}
        counting = ms.FeatureView("counting", request=fields, features=[group.with_request() for group in groups])
        self.counting = FeatureReader(self.store, counting, self.versions, SimulatedClock(NOW))
        self.columns = view.columns

    def _fill(self, events: pa.Table) -> None:
        meta = ShardMeta(
            position=1, applied={"payments/0": len(events)}, newest_arrival=NOW, applied_at=NOW, backfilled=True
        )
        groups = [version.group for version in self.versions.values()]
        for version, prepared in zip(self.versions.values(), prepare(groups, PAYMENTS, events), strict=True):
            states = fold(layout_of(version.group), prepared).to_bytes()
            shards: dict[int, list[tuple[bytes, bytes]]] = {shard: [] for shard in range(version.shards)}
            for key, state in sorted(zip(prepared.keys, states, strict=True)):
                shards[shard_of(key, version.shards)].append((key, state))
            for shard, items in shards.items():
                self.store.write(version.id, shard, items, meta, None)

    def read(self, keys: list[list[int]], *, values: bool = True) -> dict[str, float]:
        """Read each list of keys at once, with `values` up to Python's; the wall and CPU seconds of one read."""
        asked = [({"user_id": some}, np.full(len(some), NOW)) for some in keys]
        wall, cpu = time.perf_counter(), time.process_time()
        for given, at in asked:
            columns = self.reader.read(given, at).columns
            if values:
                _ = [column.tolist() for column in columns.values()]
        return {"wall": (time.perf_counter() - wall) / len(keys), "cpu": (time.process_time() - cpu) / len(keys)}

    def read_counting(self, keys: list[list[int]]) -> float:
        """Read each list of keys at once, the request as one more row of every group; the wall time of one read in µs."""
        asked = [
            (
                {
                    "user_id": some,
                    "amount": [12.5] * len(some),
                    "fee": [1.0] * len(some),
                    "status": ["paid"] * len(some),
                },
                np.full(len(some), NOW),
            )
            for some in keys
        ]
        wall = time.perf_counter()
        for values, at in asked:
            _ = [column.tolist() for column in self.counting.read(values, at).columns.values()]
        return (time.perf_counter() - wall) / len(keys) * 1e6

    def values(self, keys: list[int]) -> dict[str, np.ndarray]:
        """The 55 columns of some users."""
        return self.reader.read({"user_id": keys}, np.full(len(keys), NOW)).columns

    def state_bytes(self, user: int) -> int:
        """Bytes of the states of one user, all groups together."""
        key = encode_key(USER.keys, [user])
        found = (held(self.store, v.id, shard_of(key, v.shards), [key])[0][0] for v in self.versions.values())
        return sum(len(state or b"") for state in found)


def run(scale: Scale) -> Iterator[Claim]:
    """Reads of 1 and of 100 keys: wall time, then CPU time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        users = scale.of(2_000, least=100)
        served, valued = (
            Served(folder / name, users, groups)
            for name, groups in (("served", serving_groups()), ("valued", groups_with_values()))
        )
        feast = stack.enter_context(peer("feast")) if scale.foreign else None
        if feast:
            _open(feast, served, folder)
        for count, reads in ((1, scale.of(500, least=20)), (100, scale.of(50, least=5))):
            yield from _claims(served, feast, count, reads, scale.repeats)
            yield _counting(served, count, reads, scale.repeats)
            yield _valued(valued, served, count, reads, scale.repeats)


def _claims(served: Served, feast: Peer | None, count: int, reads: int, repeats: int) -> Iterator[Claim]:
    rng = np.random.default_rng(count)
    batches = [rng.choice(served.users, count, replace=False).tolist() for _ in range(reads)]
    few, keys = batches[: max(5, reads // 5)], f"{count} key" + "s" * (count > 1)
    for values, target in ((True, 10), (False, None)):
        cpu: tuple[list[float], list[float]] = ([], [])
        theirs = _kept(lambda: feast.ask(do="read", keys=few, values=values), cpu[1]) if feast else None  # noqa: B023
        wall = in_turns(_kept(lambda: served.read(batches, values=values), cpu[0]), theirs, repeats)  # noqa: B023
        what, who = ("", "Feast on SQLite") if values else (", no dict of values", "Feast on SQLite, its message only")
        yield Claim(f"55 features in 8 groups, {keys}{what}", "µs", *wall, peer=who, target=target)
        yield Claim(f"CPU of {keys}{what}", "µs", cpu[0][1:], cpu[1][1:], peer=who)


def _counting(served: Served, count: int, reads: int, repeats: int) -> Claim:
    """What it costs that the request is one more row of every group, beside the read of the same features without it."""
    rng = np.random.default_rng(count)
    batches = [rng.choice(served.users, count, replace=False).tolist() for _ in range(reads)]
    taken = in_turns(
        lambda: served.read_counting(batches), lambda: served.read(batches)["wall"] * 1e6, repeats
    )  # fmt: skip
    keys = f"{count} key" + "s" * (count > 1)
    return Claim(f"55 features in 8 groups, {keys}, with the request", "µs", *taken, peer="the same without it")


def _valued(valued: Served, served: Served, count: int, reads: int, repeats: int) -> Claim:
    """What it costs that fifteen of the features tell values apart, decay, or are of windows of events."""
    rng = np.random.default_rng(count)
    batches = [rng.choice(served.users, count, replace=False).tolist() for _ in range(reads)]
    taken = in_turns(
        lambda: valued.read(batches)["wall"] * 1e6, lambda: served.read(batches)["wall"] * 1e6, repeats
    )  # fmt: skip
    keys, target = f"{count} key" + "s" * (count > 1), 0.5 if count == 1 else None
    name, beside = f"55 features in 8 groups, 15 of values, {keys}", "55 counts, sums, moments and extremes"
    return Claim(name, "µs", *taken, peer=beside, target=target)


def _kept(read: Callable[[], Mapping[str, float]], cpu: list[float]) -> Callable[[], float]:
    """A measurement of wall time in µs that keeps the CPU time of every turn, the unmeasured first one too."""

    def measure() -> float:
        taken = read()
        cpu.append(taken["cpu"] * 1e6)
        return taken["wall"] * 1e6

    return measure


def _open(feast: Peer, served: Served, folder: Path) -> None:
    """Give Feast the values, and see that it returns them."""
    users = list(range(served.users))
    values = served.values(users)
    pq.write_table(pa.table({"user_id": users, **values}), folder / "values.parquet")
    feast.ask(do="open", folder=str(folder), values=str(folder / "values.parquet"), groups=served.groups)
    some = users[:: max(1, len(users) // 100)]
    found: dict[str, list[Any]] = feast.ask(do="values", keys=some)
    for name in served.columns:
        given = np.array([np.nan if value is None else value for value in found[name]], float)
        np.testing.assert_array_equal(given, values[name][some], err_msg=f"Feast holds other values of {name}")
