"""Where a topic's partitions end, asked again and again beside the worker's loop.

Two questions need it. *Is an idle partition current?* If the worker has applied everything up to an end that was asked for at a
moment, then all that was appended before that moment is applied; the clock at any later moment proves nothing. *Does it make
progress?* Records below the readable end that are not committed wait for the worker.

The end for the first question counts records of open transactions: they were appended already, and cannot be read yet.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

log = logging.getLogger("forebay.ends")
ANSWER_S = 5.0


@dataclass(frozen=True)
class End:
    """`offset` is the one after a partition's last record, `readable` the one after the last that is not in an open transaction;
    both are as of a moment after `asked_ms` (the worker's clock, ms)."""

    offset: int
    readable: int
    asked_ms: int


class EndWatch:
    """Asks every `interval_s` on a thread of its own until `stop`. What it found may be read from any thread."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, interval_s: float) -> None:
        self._places = [TopicPartition(topic, p) for p in range(partitions)]
        self._interval_s = interval_s
        self._settings = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._admin = AdminClient(self._settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ends-{topic}", daemon=True)
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
        while not self._stop.is_set():
            asked_ms = time.time_ns() // 1_000_000
            try:
                # The readable end first: asked the other way round, it could lie past the other.
                readable, ends = (
                    self._ask(level) for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
                )
                self._ends = {p: End(ends[p], readable[p], asked_ms) for p in ends}
                self.answered_at = time.monotonic()
            except (KafkaException, TimeoutError) as error:
                log.debug("the ends are not known: %s", error)
                # After a broker's restart a client goes on asking with the old leader epoch, which is refused for ever.
                self._admin = AdminClient(self._settings)
            self._stop.wait(self._interval_s)

    def _ask(self, level: IsolationLevel) -> dict[int, int]:
        asked = self._admin.list_offsets(
            {place: OffsetSpec.latest() for place in self._places}, isolation_level=level, request_timeout=ANSWER_S
        )
        return {place.partition: future.result(2 * ANSWER_S).offset for place, future in asked.items()}
