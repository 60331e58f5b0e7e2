"""Shards that are asked, over and over, for what comes next: each by an iterator, which is kept."""

from __future__ import annotations

from typing import NamedTuple

from millstream.sources.kinesis.service import Answer, GoneShard, Service, StaleIterator, own_id


class _Kept(NamedTuple):
    """An iterator over what comes after a sequence number."""

    after: int | None
    iterator: str


class Polling:
    """Reads shards by GetRecords; see `Feed`.

    Args:
        service: the stream.
    """

    pausing = True

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept: dict[str, _Kept] = {}

    def records(self, shard: str, after: int | None, limit: int) -> Answer:
        """Return records of a shard after a sequence number; see `Feed.records`."""
        kept = self._kept.get(shard)
        if kept is None or kept.after != after:
            kept = self._kept[shard] = _Kept(after, self._service.iterator(own_id(shard), after))
        try:
            answer = self._service.records(kept.iterator, limit)
        except (GoneShard, StaleIterator):
            self.forget(shard)  # the next read makes another
            raise
        if answer.following is None:
            self.forget(shard)
        else:
            self._kept[shard] = _Kept(answer.records[-1].sequence if answer.records else after, answer.following)
        return answer

    def holds(self, shard: str, after: int | None) -> bool:
        """Return that nothing is here; see `Feed.holds`."""
        return False

    def forget(self, shard: str) -> None:
        """Forget a shard's iterator; see `Feed.forget`."""
        self._kept.pop(shard, None)

    def close(self) -> None:
        """Forget the iterators."""
        self._kept = {}
