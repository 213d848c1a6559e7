"""The sources of an Intake that stand still, and what lets them go on: their newest records, or an operator.

Whatever waits when a source goes on is read through: it was decided about. Only what comes later counts again, else the
bad records that wait would stop the source a second time.

All of it is this process's own, and in memory. After a restart a source that is still broken stands still again after
one window at most.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from forebay.clock import now_ms
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.accept import Acceptor
from forebay.streams.intake.breaker import READ_ALL_THE_SAME, Breaker, BreakerOptions
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.source import Source
from forebay.telemetry import emit

log = logging.getLogger("forebay.intake")
_BY = {"sample": "as its newest records are events", "command": "by command", "moved": "by another worker"}


class SourceGuard:
    """See Guard. One thread, but for `paused`."""

    def __init__(
        self,
        sources: Sequence[Source],
        acceptor: Acceptor,
        options: BreakerOptions = BreakerOptions(),
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`sources` by number, as `acceptor` has them."""
        self.paused: Mapping[str, str] = MappingProxyType({})
        self._sources, self._acceptor, self._clock, self._wall_ms = tuple(sources), acceptor, clock, wall_ms
        self._numbers = {(source.topic, source.partition): number for number, source in enumerate(sources)}
        self._breakers = {source.topic: Breaker(options) for source in sources}
        self._since: dict[str, tuple[float, int]] = {}  # topic -> when it was paused, by either clock
        self._through: dict[int, int] = {}  # partition -> below this offset nothing counts

    def took(self, batches: Sequence[PartitionBatch], letters: Sequence[DeadLetter]) -> None:
        """Count what became of batches: they are told in any case."""
        read, bad = Counter[str](), Counter[str]()
        for batch in batches:
            through = bisect.bisect_left(batch.offsets, self._through.get(batch.partition, 0))
            read[self._sources[batch.partition].topic] += len(batch.offsets) - through
        for letter in letters:
            counts = letter.offset >= self._through.get(self._numbers[letter.topic, letter.partition], 0)
            bad[letter.topic] += counts and letter.reason not in READ_ALL_THE_SAME
        for topic, count in read.items():
            breaker = self._breakers[topic]
            if count and breaker.took(count, bad[topic], self._clock()):
                self._pause(topic, breaker)

    def since_ms(self, topic: str) -> int:
        """When the source was paused (ms); 0 where it is read."""
        return self._since[topic][1] if topic in self._since else 0

    def due(self) -> list[str]:
        """See Guard."""
        return [topic for topic, breaker in self._breakers.items() if breaker.due(self._clock())]

    def look(self, topic: str, batches: Sequence[PartitionBatch], ends: Mapping[int, int]) -> None:
        """See Guard."""
        read = sum(len(batch.offsets) for batch in batches)
        # Sets of their own: a sample leaves no trace.
        letters = self._acceptor.accept(batches, {b.partition: HourSets() for b in batches}).letters if read else ()
        bad = sum(letter.reason not in READ_ALL_THE_SAME for letter in letters)
        breaker = self._breakers[topic]
        if not ends:
            breaker.go_on()
            self._resume(topic, ends, by="moved")
        elif breaker.looked(read, bad, self._clock()):
            self._resume(topic, ends, by="sample")
        elif read:
            log.warning("%s stays paused: %s", topic, self._told(breaker, "newest"))

    def resume(self, topic: str, ends: Mapping[int, int]) -> None:
        """See Guard."""
        if topic in self.paused:
            self._breakers[topic].go_on()
            self._resume(topic, ends, by="command")

    def _pause(self, topic: str, breaker: Breaker) -> None:
        self._since[topic] = (self._clock(), self._wall_ms())
        why = f"{topic} is paused: {self._told(breaker, 'last')}"
        self.paused = MappingProxyType({**self.paused, topic: why})
        log.error("%s. What waits is kept. To refuse it and go on: forebay source resume %s --status …", why, topic)
        emit("source_paused", stage="intake", topic=topic, share=breaker.share, records=breaker.records)

    def _resume(self, topic: str, ends: Mapping[int, int], *, by: str) -> None:
        self._through.update(ends)
        seconds = self._clock() - self._since.pop(topic)[0]
        self.paused = MappingProxyType({name: why for name, why in self.paused.items() if name != topic})
        log.warning("%s is read again after %.0f s, %s", topic, seconds, _BY[by])
        emit("source_resumed", stage="intake", topic=topic, seconds=seconds, by=by)

    @staticmethod
    def _told(breaker: Breaker, which: str) -> str:
        return f"{breaker.share:.0%} of its {which} {breaker.records:,} records are no events"
