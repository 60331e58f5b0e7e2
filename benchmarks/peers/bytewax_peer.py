"""bytewax, in its own environment: events in memory, an event-time window per key, results to memory, nothing durable."""

import json
import sys
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta

import msgspec
from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, SlidingWindower, TumblingWindower, fold_window
from bytewax.testing import TestingSink, TestingSource, run_main
from datasketches import hll_sketch, kll_floats_sketch


class Payment(msgspec.Struct, gc=False):
    """An event, as the fastest decoder of this language gives it."""

    payment_id: str
    user_id: str
    amount: float
    status: str
    paid_at: datetime
    payee_id: int = 0


_DECODE = msgspec.json.Decoder(Payment).decode
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_ZERO = timedelta(0)
BATCH = 50_000  # the larger, the faster it is
_WINDOWERS = {
    "tumbling": TumblingWindower(length=timedelta(hours=1), align_to=_EPOCH),
    "sliding": SlidingWindower(length=timedelta(hours=1), offset=timedelta(minutes=15), align_to=_EPOCH),
}


class Flow:
    """Events held in memory, as JSON and decoded, to be run through a window."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._lines = file.read().splitlines()
        self._events = [_DECODE(line) for line in self._lines]

    def run(self, window: str, decoded: bool) -> dict[str, float]:
        """Count, sum and greatest amount per user and window: seconds, and what was counted."""
        out: list[tuple[str, tuple[int, tuple[int, float, float]]]] = []
        flow = Dataflow("bench")
        events = op.input("in", flow, TestingSource(self._events if decoded else self._lines, batch_size=BATCH))
        if not decoded:
            events = op.map("decode", events, _DECODE)
        keyed = op.map("key", events, lambda event: (event.user_id, event))
        clock = EventClock(ts_getter=lambda event: event.paid_at, wait_for_system_duration=_ZERO)
        windowed = fold_window("window", keyed, clock, _WINDOWERS[window], _nothing, _add, _both, ordered=False)
        op.output("out", windowed.down, TestingSink(out))
        begun = time.perf_counter()
        run_main(flow)
        return {"wall": time.perf_counter() - begun, "counted": sum(folded[0] for _, (_, folded) in out)}

    def sketch(self, hours: list[int]) -> dict[str, float]:
        """Distinct payees, a quantile sketch, the last five amounts, counts of payees, per user and window of so many hours."""
        out: list[tuple[str, tuple[int, Sketches]]] = []
        flow = Dataflow("bench")
        events = op.input("in", flow, TestingSource(self._events, batch_size=BATCH))
        keyed = op.map("key", events, lambda event: (event.user_id, event))
        clock = EventClock(ts_getter=lambda event: event.paid_at, wait_for_system_duration=_ZERO)
        for length in hours:
            windower = TumblingWindower(length=timedelta(hours=length), align_to=_EPOCH)
            windowed = fold_window(
                f"window{length}", keyed, clock, windower, Sketches, _sketched, _merged, ordered=False
            )
            op.output(f"out{length}", windowed.down, TestingSink(out))
        begun = time.perf_counter()
        run_main(flow)
        return {"wall": time.perf_counter() - begun, "counted": sum(folded.rows for _, (_, folded) in out) / len(hours)}


class Sketches:
    """What is kept of the payments of one user in one window."""

    def __init__(self) -> None:
        self.rows = 0
        self.distinct = hll_sketch(12)
        self.amounts = kll_floats_sketch(200)
        self.last: deque[float] = deque(maxlen=5)
        self.counts: Counter[int] = Counter()


def _sketched(kept: Sketches, event: Payment) -> Sketches:
    kept.rows += 1
    kept.distinct.update(event.payee_id)
    kept.amounts.update(event.amount)
    kept.last.append(event.amount)
    kept.counts[event.payee_id] += 1
    return kept


def _merged(a: Sketches, b: Sketches) -> Sketches:
    """Tumbling windows of events are never merged."""
    raise NotImplementedError


def _nothing() -> tuple[int, float, float]:
    return 0, 0.0, float("-inf")


def _add(folded: tuple[int, float, float], event: Payment) -> tuple[int, float, float]:
    count, total, most = folded
    amount = event.amount
    return count + 1, total + amount, amount if amount > most else most


def _both(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[int, float, float]:
    return a[0] + b[0], a[1] + b[1], max(a[2], b[2])


def main() -> None:
    flow = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "open":
            flow = Flow(**request)
            answer = None
        else:
            answer = getattr(flow, do)(**request)
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
