"""Reading all of a log in a process of its own: a file damaged between LMDB's pages ends that process, not the caller.

Run as `python -m millstream.buffer.embedded.inspection FOLDER MAP_GIB SECONDS`, it prints one JSON object.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.errors import CorruptLog, MillstreamError

MOST = 20
"""How many damaged places are named."""
_AT_ONCE = 10_000
_GRACE = 30.0


def inspect_log(folder: Path, map_gib: float, seconds: float = 60.0) -> str:
    """Read all records of a log, those that are longest there first, and say how many there are.

    Args:
        folder: the log's folder.
        map_gib: most it may grow to, in GiB.
        seconds: how long to read at most.

    Raises:
        CorruptLog: when something is damaged; the message names each place, or says that LMDB cannot read the file.
    """
    if not (folder / "data.mdb").exists():
        return "no log yet"
    command = [sys.executable, "-m", __spec__.name, str(folder), str(map_gib), str(seconds)]
    file = folder / "data.mdb"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE)
    except subprocess.TimeoutExpired:
        raise CorruptLog.at(file, "the way from page to page, which has no end,") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise CorruptLog.at(file, f"the way from page to page (reading it ends in {name})")
    if done.returncode:
        raise MillstreamError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found = json.loads(done.stdout)
    if found["damaged"]:
        raise CorruptLog.at(file, "; ".join(found["damaged"]))
    return f"{found['records']:,} records read" + (
        "" if found["whole"] else f" in {seconds:.0f} s, not yet all of them"
    )


def _inspected(folder: Path, map_gib: float, seconds: float) -> dict[str, object]:
    end, damaged, count = time.monotonic() + seconds, list[str](), 0
    try:
        log = EmbeddedLog(folder, SimulatedClock(0), map_gib, fsync=True)
        places = [(topic, partition) for topic, partitions in log.topics().items() for partition in range(partitions)]
    except CorruptLog as error:
        return {"records": 0, "damaged": [error.message], "whole": False}
    for topic, partition in places:
        for found in _walk(log, topic, partition):
            if isinstance(found, int):
                count += found
            elif len(damaged) < MOST:
                damaged.append(found)
            if time.monotonic() > end or len(damaged) == MOST:
                return {"records": count, "damaged": damaged, "whole": False}
    log.close()
    return {"records": count, "damaged": damaged, "whole": True}


def _walk(log: EmbeddedLog, topic: str, partition: int) -> Iterator[int | str]:
    """How many records were read, piece by piece; and each place that is damaged, behind which reading goes on."""
    try:
        position, following = log.ends(topic)[partition]
    except CorruptLog as error:
        yield _place(error)
        return
    limit = _AT_ONCE
    while position < following:
        try:
            records = log.read(topic, partition, position, limit)
        except CorruptLog as error:
            if limit > 1:
                limit = 1  # batch by batch up to the damaged one
                continue
            yield _place(error)
            position += 1
            continue
        except MillstreamError:
            return  # trimmed meanwhile
        yield len(records)
        position = records.next


def _place(error: CorruptLog) -> str:
    return error.message.partition(" is damaged: ")[2].partition(" does not read")[0] or error.message


if __name__ == "__main__":
    print(json.dumps(_inspected(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))))
