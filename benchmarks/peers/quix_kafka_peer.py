"""Quix Streams on Kafka, in its own environment: JSON events of a topic, three event-time windows per key, state in RocksDB."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from uuid import uuid4

from quixstreams import Application

LENGTHS_MS = (300_000, 3_600_000, 86_400_000)
#: Partitions are read at once, and no event is to be late.
LATE_MS = 10 * 365 * 86_400_000
QUIET_S = 30.0
"""Seconds without a message after which a run that lacks some ends."""
#: Count, sum, least, greatest, sum of squares and last of amounts; sum and greatest of fees; declined.
Folded = list[float]


def run(servers: str, topic: str, rows: int) -> dict[str, float]:
    """Fold all events of a topic: seconds of processor time, and how many events were counted in each window."""
    with tempfile.TemporaryDirectory() as folder:
        application = Application(
            servers,
            consumer_group=f"bench.{uuid4()}",
            auto_offset_reset="earliest",
            auto_create_topics=False,
            use_changelog_topics=False,
            state_dir=folder,
            loglevel="ERROR",
        )
        counted = dict.fromkeys(LENGTHS_MS, 0)
        events = application.dataframe(application.topic(topic, key_deserializer="str", value_deserializer="json"))
        for length in LENGTHS_MS:
            windowed = events.tumbling_window(length, grace_ms=LATE_MS, name=f"of {length}").reduce(_add, _first)
            windowed.current().update(_counting(counted, length))
        begun = time.process_time()
        application.run(count=rows * len(LENGTHS_MS), timeout=QUIET_S, collect=False)
        return {"processor": time.process_time() - begun, "counted": sum(counted.values()) / len(LENGTHS_MS)}


def _counting(counted: dict[int, int], length: int) -> Callable[[object], None]:
    def count(_: object) -> None:
        counted[length] += 1

    return count


def _first(event: dict[str, object]) -> Folded:
    return _add([0, 0.0, float("inf"), float("-inf"), 0.0, 0.0, 0.0, float("-inf"), 0], event)


def _add(folded: Folded, event: dict) -> Folded:
    count, total, least, most, squares, _, fees, fee, declined = folded
    amount, paid = event["amount"], event["fee"]
    return [
        count + 1,
        total + amount,
        amount if amount < least else least,
        amount if amount > most else most,
        squares + amount * amount,
        amount,
        fees + paid,
        paid if paid > fee else fee,
        declined + (event["status"] == "declined"),
    ]


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        del request["do"]
        print(json.dumps({"answer": run(**request)}), flush=True)


if __name__ == "__main__":
    main()
