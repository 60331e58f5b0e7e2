"""What apply and backfill look at before they do anything."""

from pathlib import Path

import pyarrow as pa

import millstream as ms
from millstream.project.apply import earliest
from millstream.project.parts import Parts
from millstream.settings import Settings

START = 1_735_689_600_000_000
MINUTE = 60_000_000


def test_the_earliest_arrival_is_the_least_whatever_the_order_of_commits(tmp_path: Path) -> None:
    clicks = ms.EventStream("clicks", time="at", schema={"at": "timestamp"})
    parts = Parts(Settings(folder=tmp_path))
    parts.registry.apply(parts.registry.plan([clicks]))
    parts.log.create("clicks", 1)
    assert earliest(parts) is None
    for first in (2, 0, 1, 3):
        arrivals = pa.array([START + first * MINUTE + offset for offset in (1, 0, 2)], pa.int64())
        parts.offline.append("events.clicks", pa.table({"_arrival": arrivals}))
    assert earliest(parts) == START
