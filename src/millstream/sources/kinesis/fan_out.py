"""Shards whose records the service pushes to a registered consumer (enhanced fan-out), each by a subscription."""

from __future__ import annotations

from millstream.errors import SourceBusy, SourceError
from millstream.forks import forks
from millstream.sources.kinesis.consumer import Consumer
from millstream.sources.kinesis.service import Answer, GoneShard, Invalid, Service, UnknownPlace, own_id
from millstream.sources.kinesis.subscription import From, Subscription, unforeseen

MOMENT = 0.05
"""Seconds that a read waits for the first event of a subscription; as long as it has not come, nobody knows what is there."""
ENDING = 2.0
"""Seconds that all threads together have to end in; one that waits for a server that is silent ends by its time-out."""


class FanOut:
    """Reads shards by SubscribeToShard; see `Feed`.

    A subscription is made when a shard is read, and made anew when it has ended, or another place is asked for than what
    follows. Places are sequence numbers, as for `Polling`: a project may change between both at any time.

    Args:
        service: the stream.
        pushed: the stream too, by a client whose answers may last.
        consumer: whose subscriptions they are.
    """

    pausing = False

    def __init__(self, service: Service, pushed: Service, consumer: Consumer) -> None:
        self._service, self._pushed, self._consumer = service, pushed, consumer
        self._live: dict[str, Subscription] = {}
        self._next: dict[str, From] = {}
        self._ending: list[Subscription] = []
        self._forks = forks()

    def records(self, shard: str, after: int | None, limit: int) -> Answer:
        """Return what a shard's subscription has pushed after a sequence number; see `Feed.records`.

        Raises:
            SourceBusy: also when a subscription has only just begun.
        """
        live = self._live.get(shard)
        if live is None or not live.goes_on(after):
            live = self._subscribed(shard, after)
        if not live.begun(MOMENT):
            raise SourceBusy(f"{self._service.named}: a subscription of '{own_id(shard)}' begins.")
        live.answered, over = True, live.over  # before what is held: that is all then
        answer = live.answer(limit)
        if not answer.records and over and not live.closed:
            return self._went(shard, live, after)
        if answer.following is None:
            self.forget(shard)
        return answer

    def holds(self, shard: str, after: int | None) -> bool:
        """Return whether a shard's subscription began at a place, or before it, and goes on there; see `Feed.holds`."""
        live = self._live.get(shard)
        return (
            live is not None and live.answered and live.goes_on(after)
        )  # what was lost before it is told with the first

    def forget(self, shard: str) -> None:
        """End a shard's subscription; see `Feed.forget`."""
        self._next.pop(shard, None)
        live = self._live.pop(shard, None)
        if live is not None:
            live.stop()
            self._ending = [one for one in [*self._ending, live] if not one.over]

    def close(self) -> None:
        """End all subscriptions; in a child of the process that made them they are left alone."""
        live, self._live, self._next = self._live, {}, {}
        if self._forks != forks():
            return
        for one in live.values():
            one.stop()
        ending = [*self._ending, *live.values()]
        for one in ending:
            one.join(ENDING / len(ending))
        self._pushed.close()

    def _subscribed(self, shard: str, after: int | None) -> Subscription:
        arn, begin = self._consumer.arn(), self._next.get(shard)
        if begin is None or begin.after != after:
            begin = From(after, after)
        self.forget(shard)
        self._live[shard] = made = Subscription(self._pushed, arn, own_id(shard), begin)
        return made

    def _went(self, shard: str, ended: Subscription, after: int | None) -> Answer:
        """What is to be said of a subscription that has ended, and of which nothing is left; the next read makes another."""
        del self._live[shard]
        failure = ended.failure
        if isinstance(failure, Invalid):
            if ended.begin.asked == after:
                raise UnknownPlace(str(after))
            return Answer([], str(after), None)
        self._next[shard] = From(after, ended.following)
        if isinstance(failure, GoneShard):
            self._consumer.forget()
            self._service.forget()  # the stream may be another one of its name, which the next read finds out
            self._service.iterator(
                own_id(shard), None
            )  # says so, if it is the shard that is gone, and not the consumer
            raise SourceBusy(f"{self._service.named}: consumer '{self._consumer.name}' is there no more.")
        if failure is not None:
            raise failure if isinstance(failure, SourceError) else unforeseen(self._service.named, failure)
        if ended.unsure and self._at_end(shard, after):
            return Answer([], None, 0)
        if not ended.heard:
            raise SourceBusy(
                f"{self._service.named}: a subscription of '{own_id(shard)}' ended before it gave anything."
            )
        return Answer([], str(ended.following), None)

    def _at_end(self, shard: str, after: int | None) -> bool:
        """Whether a shard is closed, and has nothing after a place: asked where a subscription does not tell."""
        answer = self._service.records(self._service.iterator(own_id(shard), after), 1)
        return not answer.records and answer.following is None
