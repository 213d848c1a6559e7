"""Where a topic's partitions end, asked again and again beside the worker's loop.

Two questions need it. *Is an idle partition current?* If the worker has applied everything up to an end that was asked
for at a moment, then all that was appended before that moment is applied; the clock at any later moment proves nothing.
*Does it make progress?* Records below the readable end that are not committed wait for the worker.

The end for the first question counts records of open transactions: they were appended already, and cannot be read yet.
It is asked after `moment`, which says what the sources had taken by then: so all of that lies below the end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from forebay.clock import now_ms
from forebay.streams.clients import asking_consumer
from forebay.streams.cluster import Address
from forebay.streams.worker.source import Source
from forebay.streams.worker.transport import End

log = logging.getLogger("forebay.ends")
ANSWER_S = 2.0
READABLE_EVERY = 10  # questions: what is readable is for the watchdog, which is in no hurry


class Moment(Protocol):
    """What is asked before the ends are, on the thread that asks."""

    def as_of(self) -> int:
        """The moment (ms) before which the sources took nothing that an end asked for now could miss; 0: not known.
        May raise KafkaException."""

    def close(self) -> None:
        """No more is asked."""


class EndWatch:
    """Asks every `interval_s` on a thread of its own until `stop`. What it found may be read from any thread."""

    def __init__(self, bootstrap: Address, sources: Sequence[Source], moment: Moment, interval_s: float) -> None:
        """`sources` by number."""
        self._places = [TopicPartition(source.topic, source.partition) for source in sources]
        self._moment, self._interval_s = moment, interval_s
        # Consumers, though they read nothing: the admin client's list_offsets goes on with an old leader epoch after a
        # broker's restart, and aborts the process when a frozen broker answers late (librdkafka 2.16).
        self._all, self._readable = (
            Consumer(asking_consumer(bootstrap, committed=committed)) for committed in (False, True)
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ends-{sources[0].topic}", daemon=True)
        self._ends: dict[int, End] = {}
        self.answered_at = time.monotonic()  # when the broker last answered

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more. A question under way is not waited for."""
        self._stop.set()

    def end(self, partition: int) -> End | None:
        """The newest answer about a partition; None before the first."""
        return self._ends.get(partition)

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            covers_ms = self._covered()
            for number, place in enumerate(self._places):
                try:
                    self._ask(number, place, covers_ms, readable=turn % READABLE_EVERY == 0)
                except KafkaException as error:  # of this partition: another may have a leader
                    log.debug("the end of %s[%d] is not known: %s", place.topic, place.partition, error)
            turn += 1
            self._stop.wait(self._interval_s)
        for one in (self._all, self._readable, self._moment):
            one.close()

    def _covered(self) -> int:
        try:
            return self._moment.as_of()
        except KafkaException as error:
            log.debug("what the sources have taken is not known: %s", error)
            return 0

    def _ask(self, number: int, place: TopicPartition, covers_ms: int, *, readable: bool) -> None:
        before = self._ends.get(number)
        # The readable end first: asked the other way round, it could lie past the other.
        if readable or before is None:
            known = self._readable.get_watermark_offsets(place, ANSWER_S)[1]
        else:
            known = before.readable
        asked_ms = now_ms()
        self._ends[number] = End(self._all.get_watermark_offsets(place, ANSWER_S)[1], known, covers_ms, asked_ms)
        self.answered_at = time.monotonic()
