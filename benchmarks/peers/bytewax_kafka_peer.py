"""bytewax on Kafka, in its own environment: JSON events of a topic, three event-time windows per key, results to memory."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta

import msgspec
from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import TestingSink, run_main


class Payment(msgspec.Struct, gc=False):
    """An event, as the fastest decoder of this language gives it."""

    user_id: str
    amount: float
    fee: float
    status: str
    paid_at: datetime


_DECODE = msgspec.json.Decoder(Payment).decode
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_LENGTHS = {"5m": timedelta(minutes=5), "1h": timedelta(hours=1), "24h": timedelta(hours=24)}
#: Count, sum, least, greatest, sum of squares and last of amounts, with its time; sum and greatest of fees; declined.
Folded = tuple[int, float, float, float, float, float, datetime, float, float, int]
#: Partitions are read one after the other, and no event is to be late.
_LATE = timedelta(days=3650)
BATCH = 10_000


def run(servers: str, topic: str) -> dict[str, float]:
    """Fold all events of a topic: seconds of processor time, and how many events were counted in each window."""
    found: list[tuple[str, tuple[int, Folded]]] = []
    flow = Dataflow("bench")
    messages = op.input("in", flow, KafkaSource([servers], [topic], tail=False, batch_size=BATCH))
    keyed = op.map("key", messages, _keyed)
    clock = EventClock(ts_getter=lambda event: event.paid_at, wait_for_system_duration=_LATE)
    for name, length in _LENGTHS.items():
        windower = TumblingWindower(length=length, align_to=_EPOCH)
        windowed = fold_window(f"window{name}", keyed, clock, windower, _nothing, _add, _both, ordered=False)
        op.output(f"out{name}", windowed.down, TestingSink(found))
    begun = time.process_time()
    run_main(flow)
    taken = time.process_time() - begun
    return {"processor": taken, "counted": sum(folded[0] for _, (_, folded) in found) / len(_LENGTHS)}


def _keyed(message) -> tuple[str, Payment]:
    event = _DECODE(message.value)
    return event.user_id, event


def _nothing() -> Folded:
    return 0, 0.0, float("inf"), float("-inf"), 0.0, 0.0, _EPOCH, 0.0, float("-inf"), 0


def _add(folded: Folded, event: Payment) -> Folded:
    count, total, least, most, squares, last, at, fees, fee, declined = folded
    amount, paid = event.amount, event.fee
    newer = event.paid_at >= at
    return (
        count + 1,
        total + amount,
        amount if amount < least else least,
        amount if amount > most else most,
        squares + amount * amount,
        amount if newer else last,
        event.paid_at if newer else at,
        fees + paid,
        paid if paid > fee else fee,
        declined + (event.status == "declined"),
    )


def _both(a: Folded, b: Folded) -> Folded:
    """Tumbling windows of events are never merged."""
    raise NotImplementedError


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"answer": run(request["servers"], request["topic"])}), flush=True)


if __name__ == "__main__":
    main()
