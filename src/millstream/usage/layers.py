"""What each layer says about itself, and what the scoring processes have counted, put together for any reader."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millstream.usage.blocks import TICK_SECONDS, TICKS, Histogram, Totals, read_blocks

if TYPE_CHECKING:
    import psutil

SILENT_AFTER = 10.0
GONE_AFTER = 60.0
"""Seconds of silence after which a process of another host counts as gone; one of this host can be looked for."""


def run_folder(data: Path) -> Path:
    """Return the folder in which the layers of a project publish what they do."""
    return data / "run"


def metrics_folder(data: Path) -> Path:
    """Return the folder of the scoring processes' counters."""
    return data / "run" / "metrics"


def publish(data: Path, layer: str, facts: Mapping[str, Any]) -> None:
    """Say what this process of a layer is doing: call it about once a second; the last word replaces the one before.

    CPU and memory of the process are added.

    Args:
        data: the project's folder of data.
        layer: the layer's name, such as "compute".
        facts: what readers see in `snapshot`. By convention `rate` is records a second, `lag` records behind, `age`
            microseconds since the newest arrival handled, `owner` the name under which this process shares partitions
            with others; anything else that JSON can hold is passed on as it is.

    >>> import tempfile
    >>> data = Path(tempfile.mkdtemp())
    >>> publish(data, "compute", {"rate": 1200.0, "lag": 0})
    >>> snapshot(data)["layers"]["compute"]["state"]
    'up'
    """
    keep(data, said_of(layer, facts))


def keep(data: Path, said: Mapping[str, Any]) -> None:
    """Keep what this process says of itself where others of its host find it; its last word replaces the one before.

    Args:
        data: the project's folder of data.
        said: what it says; see `said_of`.
    """
    folder = run_folder(data)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"layer-{said['layer']}-{os.getpid()}.json"
    if not path.exists():
        _remove_ended(folder, said["layer"])
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(said))
    fresh.replace(path)


def said_of(layer: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What this process says of itself: its layer, its facts, and the CPU and memory that it uses.

    The CPU is that since this was asked before, so one asks, and tells all others.

    Args:
        layer: the layer's name.
        facts: what it says of its work.
    """
    process = _process(os.getpid())
    usage = {"pid": process.pid, "born": process.create_time(), "published": time.monotonic()}
    usage |= {"cpu": process.cpu_percent(None) / 100, "rss": process.memory_info().rss}
    return {"layer": layer, "usage": usage, "facts": dict(facts)}


def place_of(data: Path) -> str:
    """Where the processes are that share a folder of data: the host, and the folder."""
    return f"{socket.gethostname()}:{data.resolve()}"


@dataclass(frozen=True)
class Elsewhere:
    """What a process of another host has said last.

    Attributes:
        host: the host, by name.
        silent: seconds since it said so.
        said: what it said; see `said_of`.
    """

    host: str
    silent: float
    said: Mapping[str, Any]


def snapshot(data: Path, elsewhere: Iterable[Elsewhere] = ()) -> dict[str, Any]:
    """Return what every layer last published and what the scoring processes have counted, ready for JSON.

    A layer's state is `up`, `silent` (its process lives but has published nothing for ten seconds) or `down`. Where
    several processes share a layer, each says what it does under its owner's name, in `processes`; of the layer's
    `facts`, `rate` and `lag` are the sums and `lag_s` the longest, and all others are of who spoke last. Processes of
    other hosts are among them; their counters and latencies are not.
    `latency` holds count, mean, p50 and p99 in milliseconds for each kind of request; `recent` the last fifteen
    minutes of scoring in ticks of ten seconds, oldest first.

    Args:
        data: the project's folder of data.
        elsewhere: what the processes of other hosts say.
    """
    totals = read_blocks(metrics_folder(data))
    return {
        "layers": _layers([*_here(run_folder(data)), *map(_there, elsewhere)]),
        "counters": totals.counters,
        "latency": {name: _latency(histogram) for name, histogram in sorted(totals.histograms.items())},
        "recent": _recent(totals),
    }


@lru_cache(maxsize=1)
def _process(pid: int) -> psutil.Process:
    # Kept, because the share of CPU is measured since the last call on the same object; by pid, for a fork has its own.
    import psutil

    return psutil.Process(pid)


def _alive(usage: Mapping[str, Any]) -> bool:
    import psutil

    try:
        process = psutil.Process(usage["pid"])
        same = abs(process.create_time() - usage["born"]) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _remove_ended(folder: Path, layer: str) -> None:
    for path in folder.glob(f"layer-{layer}-*.json"):
        said = _read(path)
        if said is None or not _alive(said["usage"]):
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return said


@dataclass(frozen=True)
class _Process:
    """A process of a layer as readers see it."""

    layer: str
    silent: float
    told: dict[str, Any]


def _here(folder: Path) -> list[_Process]:
    """The processes that share this folder of data."""
    now = time.monotonic()
    said = [one for path in sorted(folder.glob("layer-*.json")) if (one := _read(path))]
    return [_told(one, socket.gethostname(), now - one["usage"]["published"], _alive(one["usage"])) for one in said]


def _there(one: Elsewhere) -> _Process:
    return _told(one.said, one.host, one.silent, one.silent <= GONE_AFTER)


def _told(said: Mapping[str, Any], host: str, silent: float, alive: bool) -> _Process:
    usage, facts, silent = said["usage"], dict(said["facts"]), max(silent, 0.0)
    told = {"host": host, "pid": usage["pid"], "alive": alive, "published_s": round(silent, 1)}
    told |= {"cpu": usage["cpu"] if alive else 0.0, "rss": usage["rss"] if alive else 0}
    told |= {"owner": facts.pop("owner", str(usage["pid"])), "facts": facts}
    return _Process(said["layer"], silent, told)


def _layers(processes: Iterable[_Process]) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for one in sorted(processes, key=lambda one: -one.silent):
        layer = layers.setdefault(one.layer, {"processes": []})
        layer["processes"] = [p for p in layer["processes"] if p["alive"]] + [one.told]
    for layer in layers.values():
        there = [process for process in layer["processes"] if process["alive"]] or layer["processes"][-1:]
        layer["facts"] = _together([process["facts"] for process in there])
        layer["state"] = _state(layer["processes"])
        layer["cpu"] = round(sum(p["cpu"] for p in layer["processes"]), 3)
        layer["rss"] = sum(p["rss"] for p in layer["processes"])
    return layers


def _together(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the processes of a layer say of it, the last one last: each speaks of the partitions that are its own."""
    found = dict(facts[-1])
    for name, join in (("rate", sum), ("lag", sum), ("lag_s", max)):
        known = [one[name] for one in facts if isinstance(one.get(name), int | float)]
        if len(known) > 1:
            found[name] = join(known)
    return found


def _state(processes: list[dict[str, Any]]) -> str:
    alive = [p for p in processes if p["alive"]]
    if not alive:
        return "down"
    return "up" if min(p["published_s"] for p in alive) <= SILENT_AFTER else "silent"


def _milliseconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 4)


def _latency(histogram: Histogram) -> dict[str, Any]:
    count = histogram.count
    return {
        "count": count,
        "mean_ms": _milliseconds(histogram.total / count) if count else None,
        "p50_ms": _milliseconds(histogram.quantile(0.5)),
        "p99_ms": _milliseconds(histogram.quantile(0.99)),
    }


def _recent(totals: Totals) -> list[dict[str, Any]]:
    current = int(time.monotonic()) // TICK_SECONDS
    recent = []
    for number in range(current - TICKS + 1, current + 1):
        tick = totals.ticks.get(number)
        count = tick.latency.count if tick else 0
        recent.append(
            {
                "seconds_ago": (current - number) * TICK_SECONDS,
                "seconds": TICK_SECONDS if number < current else max(int(time.monotonic()) % TICK_SECONDS, 1),
                "count": count,
                "failed": tick.failures if tick else 0,
                "p50_ms": _milliseconds(tick.latency.quantile(0.5)) if tick else None,
                "p99_ms": _milliseconds(tick.latency.quantile(0.99)) if tick else None,
            }
        )
    return recent
