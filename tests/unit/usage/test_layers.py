"""What processes count and publish, read from outside, across deaths and restarts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from millstream.usage.blocks import (
    BUCKETS,
    COUNTERS,
    VERSIONS,
    Block,
    Histogram,
    bucket_bounds,
    bucket_of,
    read_blocks,
)
from millstream.usage.layers import metrics_folder, publish, snapshot
from millstream.usage.prometheus import exposition

COUNT_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from millstream.usage.blocks import Block
block = Block(Path(sys.argv[1]))
for _ in range(100):
    block.count("scored")
    block.observe("score", 500)
print("counted", flush=True)
time.sleep(60)
"""

PUBLISH_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from millstream.usage.layers import publish
publish(Path(sys.argv[1]), "compute", {"rate": 10})
print("published", flush=True)
time.sleep(60)
"""


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("duration", [0, 1, 7, 8, 9, 15, 16, 100, 12345, 10**7])
def test_a_duration_lies_within_its_bucket(duration: int) -> None:
    low, high = bucket_bounds(bucket_of(duration))
    assert low <= duration < high
    assert high - low <= max(1, low / 8)


def test_buckets_follow_one_another_without_a_gap() -> None:
    assert all(bucket_bounds(i)[1] == bucket_bounds(i + 1)[0] for i in range(BUCKETS - 1))


def test_quantiles_are_within_a_bucket_of_the_truth() -> None:
    histogram = Histogram()
    for duration in range(1, 10_001):
        histogram.buckets[bucket_of(duration)] += 1
    assert histogram.quantile(0.5) == pytest.approx(5000, rel=0.07)
    assert histogram.quantile(0.99) == pytest.approx(9900, rel=0.07)
    assert Histogram().quantile(0.5) is None


def test_a_killed_process_leaves_its_counts_and_the_next_one_keeps_them(tmp_path: Path) -> None:
    process = started(COUNT_UNTIL_KILLED, tmp_path)
    assert read_blocks(tmp_path).counters == {"scored": 100}
    killed(process)
    assert read_blocks(tmp_path).counters == {"scored": 100}

    block = Block(tmp_path)
    block.count("scored")
    totals = read_blocks(tmp_path)
    assert totals.counters == {"scored": 101}
    assert totals.histograms["score"].count == 100
    assert len(list(tmp_path.glob("*.block"))) == 1


def test_a_block_that_is_already_among_the_retired_is_not_added_again(tmp_path: Path) -> None:
    killed(started(COUNT_UNTIL_KILLED, tmp_path))
    (block,) = tmp_path.glob("*.block")
    content = block.read_bytes()
    Block(tmp_path).close()
    block.write_bytes(content)  # as if the process had died between writing the sums and removing the block
    assert read_blocks(tmp_path).counters == {"scored": 100}
    Block(tmp_path)
    assert read_blocks(tmp_path).counters == {"scored": 100}


def test_names_beyond_the_slots_of_a_block_are_counted_by_their_names(tmp_path: Path) -> None:
    block = Block(tmp_path)
    for _ in range(2):
        for i in range(3 * COUNTERS):
            block.count(f'scored{{model="m",version="{i}"}}')
            block.observe(f"route {i}", 5)
    block.count("x" * 500)
    totals = read_blocks(tmp_path)
    assert len(totals.counters) == 3 * COUNTERS + 1
    assert {value for name, value in totals.counters.items() if name != "other"} == {2}
    assert (totals.counters["other"], len(totals.histograms)) == (1, 3 * COUNTERS)
    assert {histogram.count for histogram in totals.histograms.values()} == {2}


def test_scores_of_versions_long_gone_are_added_up_when_their_processes_have_ended(tmp_path: Path) -> None:
    for start in (0, 30, 60):
        block = Block(tmp_path)
        for version in range(start, start + 60):
            block.count(f'scored{{model="m",version="{version}"}}')
            block.count(f'scored{{model="other {start}",version="1"}}')
        block.close()
    Block(tmp_path).close()
    Block(tmp_path).close()
    counters = read_blocks(tmp_path).counters
    assert sum(value for name, value in counters.items() if 'model="m"' in name) == 180
    assert counters['scored{model="m",version="older"}'] == 180 - VERSIONS
    assert sorted(counters)[:2] == ['scored{model="m",version="100"}', 'scored{model="m",version="101"}']
    assert counters['scored{model="other 0",version="1"}'] == 60


def test_the_newest_word_of_a_layer_is_what_is_seen(tmp_path: Path) -> None:
    publish(tmp_path, "ingest", {"lag": 7})
    publish(tmp_path, "ingest", {"lag": 3})
    layer = snapshot(tmp_path)["layers"]["ingest"]
    assert layer["facts"] == {"lag": 3}
    assert layer["state"] == "up"
    assert [process["pid"] for process in layer["processes"]] == [os.getpid()]
    assert layer["rss"] > 10**6


def test_a_killed_layer_is_down_and_its_successor_up(tmp_path: Path) -> None:
    process = started(PUBLISH_UNTIL_KILLED, tmp_path)
    assert snapshot(tmp_path)["layers"]["compute"]["state"] == "up"
    killed(process)
    layer = snapshot(tmp_path)["layers"]["compute"]
    assert layer["state"] == "down"
    assert layer["facts"] == {"rate": 10}
    publish(tmp_path, "compute", {"rate": 20})
    layer = snapshot(tmp_path)["layers"]["compute"]
    assert layer["state"] == "up"
    assert layer["facts"] == {"rate": 20}
    assert len(layer["processes"]) == 1


def test_processes_that_share_a_layer_speak_under_their_own_names(tmp_path: Path) -> None:
    code = PUBLISH_UNTIL_KILLED.replace('{"rate": 10}', '{"rate": 10, "lag": 3, "lag_s": 9.0, "dead": 2, "owner": "a"}')
    process = started(code, tmp_path)
    publish(tmp_path, "compute", {"rate": 20, "lag": 4, "lag_s": 1.0, "dead": 5, "owner": "b"})
    layer = snapshot(tmp_path)["layers"]["compute"]
    assert {one["owner"]: one["facts"]["lag"] for one in layer["processes"]} == {"a": 3, "b": 4}
    assert layer["facts"] == {"rate": 30, "lag": 7, "lag_s": 9.0, "dead": 5}
    killed(process)
    assert snapshot(tmp_path)["layers"]["compute"]["facts"] == {"rate": 20, "lag": 4, "lag_s": 1.0, "dead": 5}


def test_recent_requests_are_counted_in_ticks(tmp_path: Path) -> None:
    block = Block(metrics_folder(tmp_path))
    for _ in range(10):
        block.tick(1000)
    block.tick(2000, failed=True)
    recent = snapshot(tmp_path)["recent"]
    assert sum(tick["count"] for tick in recent) == 11
    assert sum(tick["failed"] for tick in recent) == 1
    assert recent[-1]["p50_ms"] == pytest.approx(1.0, rel=0.1)


def test_counting_is_cheap(tmp_path: Path) -> None:
    block = Block(tmp_path)
    begun = time.perf_counter()
    for _ in range(20_000):
        block.observe("score", 250)
        block.tick(250)
    assert (time.perf_counter() - begun) / 20_000 < 20e-6


def test_prometheus_text_has_cumulative_buckets(tmp_path: Path) -> None:
    block = Block(metrics_folder(tmp_path))
    for duration in (90, 400, 4_000):
        block.observe('latency{route="score"}', duration)
    publish(tmp_path, "compute", {"rate": 5.5, "note": "x"})
    text = exposition(read_blocks(metrics_folder(tmp_path)), snapshot(tmp_path)["layers"])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    latency = families["millstream_latency_seconds"]
    assert latency.type == "histogram"
    found = {(one.name.rpartition("_")[2], one.labels.get("le")): one.value for one in latency.samples}
    assert {one.labels["route"] for one in latency.samples} == {"score"}
    assert [found["bucket", le] for le in ("0.0001", "0.00025", "0.0005", "0.0025", "0.005", "5", "+Inf")] == [
        1, 1, 2, 2, 3, 3, 3,
    ]  # fmt: skip
    assert found["sum", None] == pytest.approx(0.004490) and found["count", None] == 3
    gauges = {
        name: families[f"millstream_layer_{name}"].samples for name in ("rate", "up", "cpu_cores", "memory_bytes")
    }
    assert {one.labels["layer"] for samples in gauges.values() for one in samples} == {"compute"}
    assert (gauges["rate"][0].value, gauges["up"][0].value) == (5.5, 1)
    assert "millstream_layer_note" not in families


def test_prometheus_text_has_every_counter_by_its_labels(tmp_path: Path) -> None:
    block = Block(tmp_path)
    for name in ('scored{model="a b\\c",version="1"}', 'scored{model="other",version="older"}', "captured"):
        block.count(name)
    text = exposition(read_blocks(tmp_path), {})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {family.type for family in families.values()} == {"counter"}
    assert [(one.name, one.labels, one.value) for one in families["millstream_scored"].samples] == [
        ("millstream_scored_total", {"model": "a b\\c", "version": "1"}, 1),
        ("millstream_scored_total", {"model": "other", "version": "older"}, 1),
    ]
    assert [(one.name, one.labels) for one in families["millstream_captured"].samples] == [
        ("millstream_captured_total", {})
    ]
