"""Partitions that stand still because the stage's guard wants them to: held, looked at, and let go on.

Whatever waits in them stays unread, so that no end behind it is reached and `as_of` stands still with them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from queue import Empty, SimpleQueue

from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.stage import Stage
from forebay.streams.worker.transport import Transport

SAMPLE, PARTITIONS = 100, 4  # so many records of so many partitions: each takes a connection of its own


class Paused:
    """Of one worker. Its thread, but for `resume` and `why`."""

    def __init__(self, stage: Stage, transport: Transport) -> None:
        self._stage, self._transport, self._held = stage, transport, set[int]()
        self._asked: SimpleQueue[str] = SimpleQueue()

    def __contains__(self, partition: int) -> bool:
        return partition in self._held

    @property
    def why(self) -> str:
        """For people; "" where nothing stands still."""
        return "; ".join(self._paused().values())

    def resume(self, topic: str) -> bool:
        """Ask that a source be read again; returns whether it stands still here."""
        if topic not in self._paused():
            return False
        self._asked.put(topic)
        return True

    def forget(self, partitions: Collection[int]) -> None:
        """They are closed. Opened again they go on, and are held before the next poll."""
        self._held.difference_update(partitions)

    @property
    def is_due(self) -> bool:
        """Whether `look` has something to do, for which it asks the broker."""
        guard = self._stage.guard
        return guard is not None and (not self._asked.empty() or bool(guard.due()))

    def look(self, stop: threading.Event, turned: Callable[[], None]) -> None:
        """Let the guard see what waits where it wants to, and hear what it was asked. Raises BrokerUnavailable; nothing
        is read that would not be read again."""
        guard = self._stage.guard
        if guard is None:
            return
        with contextlib.suppress(Empty):
            while True:
                topic = self._asked.get_nowait()
                guard.resume(topic, self._ends(self._of(topic)))
        for topic in guard.due():
            mine = self._of(topic)
            ends = self._ends(mine)
            chosen = self._chosen(mine)
            samples = [batch for p, most in chosen.items() for batch in self._sample(p, most, stop, turned)]
            if stop.is_set():
                return
            if self._stage.waits(samples):  # what they need is not there: nobody can say what they are
                samples = []
            guard.look(topic, samples, ends)

    def move(self, stop: threading.Event) -> list[int]:
        """Hold what is to stand still from now on, and returns it; what is not any more goes on. Raises
        BrokerUnavailable."""
        paused = self._paused()
        wanted = {p for p in self._stage.partitions if self._transport.source(p).topic in paused}
        held = sorted(wanted - self._held)
        if held:
            self._transport.hold(held)
            self._held.update(held)
        for partition in sorted(self._held - wanted):
            self._transport.go_on(partition, self._stage.partitions[partition].meta.offset, stop)
            self._held.discard(partition)
        return held

    def _paused(self) -> Mapping[str, str]:
        guard = self._stage.guard
        return {} if guard is None else guard.paused

    def _of(self, topic: str) -> list[int]:
        return [p for p in sorted(self._stage.partitions) if self._transport.source(p).topic == topic]

    def _ends(self, partitions: Collection[int]) -> dict[int, int]:
        """Behind all that waits now."""
        found = {p: self._transport.end(p) for p in partitions}
        return {p: end.offset for p, end in found.items() if end is not None}

    def _chosen(self, partitions: Collection[int]) -> dict[int, int]:
        """How many records of which partitions are looked at: of those in which most waits, each by what waits in it,
        as a source is judged as a whole."""
        waiting = {}
        for partition in partitions:
            end, offset = self._transport.end(partition), self._stage.partitions[partition].meta.offset
            if end is not None and end.readable > offset:
                waiting[partition] = end.readable - offset
        most = sorted(waiting, key=lambda p: -waiting[p])[:PARTITIONS]
        total = sum(waiting[p] for p in most)
        return {p: -(-SAMPLE * waiting[p] // total) for p in most}

    def _sample(
        self, partition: int, most: int, stop: threading.Event, turned: Callable[[], None]
    ) -> list[PartitionBatch]:
        """The newest records of a partition: whether its producers are well again shows in no others."""
        end = self._transport.end(partition)
        assert end is not None, "something waits"
        first = max(self._stage.partitions[partition].meta.offset, self._transport.first(partition))
        start, found = max(first, end.readable - most), list[PartitionBatch]()
        if start >= end.readable:  # retention took what waited: reading on says so
            return []
        reading = self._transport.read(partition, start, end.readable, most, stop)
        with contextlib.closing(reading) as batches:
            for batch in batches:
                found += [] if batch is None else [batch]
                turned()
        return found
