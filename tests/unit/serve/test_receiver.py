"""What is sent over HTTP goes to the log, but not to a stream that a foreign source feeds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import millstream as ms
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.errors import RequestError
from millstream.serve.receiver import Receiver

CLICKS = ms.EventStream("clicks", time="at", schema={"at": "timestamp"})


def test_an_event_for_a_bound_stream_is_refused_and_one_for_another_is_taken(tmp_path: Path):
    log = EmbeddedLog(tmp_path, SimulatedClock(0), map_gib=1, fsync=False)
    log.create("clicks", 1)
    event = b'{"at": "2026-01-01"}'
    with pytest.raises(RequestError, match="Stream 'clicks' takes its events from the source") as raised:
        asyncio.run(Receiver(log, {"clicks"}).take(CLICKS, event, lines=False))
    assert raised.value.status == 409
    taken = asyncio.run(Receiver(log, {"logins"}).take(CLICKS, event, lines=False))
    assert taken == [{"partition": 0, "position": 0, "count": 1}]
    log.close()
