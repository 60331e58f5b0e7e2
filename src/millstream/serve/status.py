"""How the whole pipeline is, for people: the layers, groups, models and streams, as JSON and as a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millstream.buffer.lag import records_behind, records_ever
from millstream.buffer.topics import dead_topic, feature_topic, late_mark
from millstream.clock import to_datetime
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.source import Table
from millstream.errors import MillstreamError
from millstream.history.agreement import online_ahead
from millstream.history.registered import registry_behind
from millstream.serve.bounds import KeysBeyond
from millstream.serve.capture import damaged_captures
from millstream.serve.http import encode
from millstream.usage.blocks import read_blocks
from millstream.usage.layers import Elsewhere, metrics_folder, place_of, snapshot

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog
    from millstream.clock import Clock
    from millstream.definitions.group_version import GroupVersion
    from millstream.registry.definitions import Registry
    from millstream.serve.catalogue import Catalogue
    from millstream.store.online import Fact, OnlineStore

LAYERS = ("compute", "ingest", "batch", "sync", "serve", "monitor")
KEPT_SECONDS = 1.0
_SHOWN = ("rate", "lag", "lag_s", "age")


class Status:
    """Puts together what the layers publish, what the store has applied and what the log holds.

    `groups` returns the group versions there are, `operations` the commands that are not finished. Facts are kept for a
    second, so any number of open pages costs one look a second.
    """

    def __init__(
        self,
        name: str,
        data: Path,
        clock: Clock,
        log: OwnLog,
        online: OnlineStore,
        catalogue: Callable[[], Catalogue],
        groups: Callable[[], list[GroupVersion]],
        operations: Callable[[], Sequence[object]] = tuple,
        registry: Registry | None = None,
    ) -> None:
        self._registry = registry
        self._name, self._data, self._clock = name, data, clock
        self._log, self._online = log, online
        self._catalogue, self._groups, self._operations = catalogue, groups, operations
        self._beyond = KeysBeyond(online, clock)
        self._kept: tuple[float, dict[str, Any]] = (-KEPT_SECONDS, {})
        self._looked: tuple[float, list[str]] = (-KEPT_SECONDS, [])
        self._document = Path(__file__).with_name("status.html").read_bytes()

    def facts(self) -> dict[str, Any]:
        """Return everything the page shows, ready for JSON; instants are ISO-8601, spans are µs."""
        if time.monotonic() - self._kept[0] >= KEPT_SECONDS:
            found = self._look()
            self._kept = (time.monotonic(), found)  # from its end on, however long it took
        return self._kept[1]

    def stepped_back(self) -> list[str]:
        """Return where the online store is of a later or another log than the one there is, or the log of a registry.

        It is looked at once a second.
        """
        if time.monotonic() - self._looked[0] >= KEPT_SECONDS:
            try:
                found = online_ahead(self._log, self._online, self._groups())
                behind = None if found or self._registry is None else registry_behind(self._log, self._registry)
                found += [] if behind is None else [f"Registry: {behind}."]
            except MillstreamError as error:
                found = [error.message]
            self._looked = (time.monotonic(), found)
        return self._looked[1]

    def metrics(self) -> str:
        """Return the counters, latencies, layers and what groups have not taken as Prometheus text."""
        from millstream.usage.prometheus import exposition

        groups = {one.id: self._unfolded(one) for one in self._groups()}
        return exposition(read_blocks(metrics_folder(self._data)), snapshot(self._data)["layers"], groups)

    def page(self) -> bytes:
        """Return the status page with the facts of now in it."""
        facts = encode(self.facts()).replace(b"</", b"<\\/")
        return self._document.replace(b'id="first">null<', b'id="first">' + facts + b"<")

    def _look(self) -> dict[str, Any]:
        elsewhere = self._elsewhere()
        seen = snapshot(self._data, elsewhere)
        topics = self._log.topics()
        now = self._clock.now()
        return {
            "project": self._name,
            "at": to_datetime(now).isoformat(timespec="seconds"),
            "layers": _layers(seen["layers"], None if elsewhere else seen["recent"]),
            "latency": seen["latency"],
            "recent": seen["recent"],
            "models": self._models(seen["counters"]),
            "groups": self._group_versions(topics, now),
            "operations": [str(one) for one in self._operations()],
            "stepped_back": self.stepped_back(),
            "streams": [self._stream(name, topics) for name in sorted(self._catalogue().streams)],
            "damaged_captures": damaged_captures(self._data / "journal"),
        }

    def _elsewhere(self) -> list[Elsewhere]:
        """What processes say that have another folder of data, on this host or another."""
        if self._registry is None:
            return []
        here = place_of(self._data)
        said = self._registry.presence.all()
        return [Elsewhere(one.place.partition(":")[0], one.silent, one.facts) for one in said if one.place != here]

    def _models(self, counters: Mapping[str, int]) -> list[dict[str, Any]]:
        catalogue = self._catalogue()
        found = []
        for name, model in sorted(catalogue.models.items()):
            scorer = catalogue.scorers.get(name)
            scored = sum(n for key, n in counters.items() if key.startswith(f'scored{{model="{name}"'))
            facts = {"name": name, "view": model.view.name, "scored": scored}
            facts |= {"version": scorer.loaded.version if scorer else None, "state": "serving" if scorer else "waiting"}
            why = catalogue.missing.get(f"model {name}")
            if name in catalogue.stopped:
                facts["state"] = "stopped"
            facts |= {"groups": scorer.reader.group_versions if scorer else (), "why": why}
            found.append(facts)
        return found

    def _group_versions(self, topics: Mapping[str, int], now: int) -> list[dict[str, Any]]:
        versions = list(self._groups())
        try:
            facts = self._online.facts({one.states: one.shards for one in versions})
            beyond = self._beyond.look(versions)
        except (MillstreamError, OSError):
            facts, beyond = {one.states: [None] * one.shards for one in versions}, {}
        return [
            self._group(one, facts[one.states], topics, now)
            | dict(zip(("beyond_bounds", "of_keys"), beyond.get(one.id, (None, None)), strict=True))
            for one in versions
        ]

    def _group(
        self, version: GroupVersion, facts: Sequence[Fact], topics: Mapping[str, int], now: int
    ) -> dict[str, Any]:
        metas = [None if isinstance(fact, MillstreamError) else fact for fact in facts]
        there = [meta for meta in metas if meta is not None]
        newest = max((meta.newest_arrival for meta in there), default=0)
        written = max((meta.applied_at for meta in there), default=0)
        topic = feature_topic(version.id)
        folded = topic in topics
        lag = records_behind(self._log, topic, [meta.position if meta else 0 for meta in metas]) if folded else None
        return {
            "id": version.id,
            "kind": "batch" if isinstance(version.group, BatchFeatureGroup) else "stream",
            "state": version.state,
            "default": version.default,
            "shards": version.shards,
            "age": now - newest if newest else None,
            "applied": max(0, now - written) if written else None,
            "lag": lag,
            **self._unfolded(version),
        }

    def _unfolded(self, version: GroupVersion) -> dict[str, int]:
        """By how many rows tables differ from what a group has taken of them: those that came too late, or are gone."""
        tables = any(isinstance(source, Table) for source in version.group.sources)
        if self._registry is None or not tables:
            return {}
        known = self._registry.marks.read(late_mark(version.id))
        return {fact: known.get(fact, 0) for fact in ("late", "gone")}

    def _stream(self, name: str, topics: Mapping[str, int]) -> dict[str, Any]:
        firsts = [first for first, _ in self._log.ends(name)] if name in topics else []
        return {
            "name": name,
            "partitions": len(firsts),
            "events": records_ever(self._log, name) if firsts else 0,
            "kept": records_behind(self._log, name, firsts) if firsts else 0,
            "dead": records_ever(self._log, dead_topic(name)) if dead_topic(name) in topics else 0,
        }


def _layers(seen: Mapping[str, Mapping[str, Any]], recent: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The layers in their order; `recent` holds all that was scored lately, None where other hosts score too."""
    found: list[dict[str, Any]] = []
    for name in [*LAYERS, *(other for other in seen if other not in LAYERS)]:
        layer = seen.get(name)
        if layer is None:
            found.append({"name": name, "state": "absent", "facts": {}})
            continue
        facts = dict(layer["facts"])
        if name == "serve" and recent is not None:  # what it handles are requests, which its own counters know best
            facts["rate"] = _rate(recent[-2:])
        known = {fact: facts.pop(fact, None) for fact in _SHOWN}
        used = {fact: layer[fact] for fact in ("state", "cpu", "rss")}
        processes = [_process(one) for one in layer["processes"]]
        found.append({"name": name, **used, **known, "facts": facts, "processes": processes})
    return found


def _rate(recent: Sequence[Mapping[str, Any]]) -> float:
    answered, seconds = (sum(int(tick[what]) for tick in recent) for what in ("count", "seconds"))
    return round(answered / seconds, 1)


def _process(told: Mapping[str, Any]) -> dict[str, Any]:
    """A process of a layer: where it is, how it is, and what it says of its own share of the work."""
    facts = dict(told["facts"])
    known = {fact: facts.pop(fact, None) for fact in _SHOWN}
    used = {name: told[name] for name in ("host", "pid", "alive", "published_s", "cpu", "rss")}
    return {**used, **known, "facts": facts}
