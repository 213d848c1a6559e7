"""A serving node's follower of one generation: the vectors topics into its copy, of users those of its shard.

Rows, watermarks and topic offsets go into the copy in one batch: a restart loads it and reads only the tail. Vectors
are a function of state, so that a record read twice writes the same row again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from forebay.errors import LogGap
from forebay.segments.spec import SIDES, Side
from forebay.shard import Shard
from forebay.store.codec import HEARTBEAT_KEY, unpack_heartbeat
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import follower_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds
from forebay.streams.topics import Topics, describe
from forebay.telemetry import emit

log = logging.getLogger("forebay.replica")


@dataclass(frozen=True)
class ReplicaStatus:
    """`caught_up`: the end of every partition was reached since the start; `lag_s`: now minus the oldest watermark."""

    caught_up: bool
    lag_s: float
    rows: Mapping[Side, int]


class Fed(Protocol):
    """What a replica writes: a ServingCopy, or a FeedingCopy."""

    generation: str
    shard: Shard

    def rows(self) -> Mapping[Side, int]: ...

    def as_of(self) -> int: ...

    def offsets(self) -> dict[tuple[str, int], int]: ...

    def write(
        self,
        side: Side,
        puts: Sequence[tuple[str, int, bytes]],
        gone: Sequence[str],
        watermarks: Mapping[int, int],
        offsets: Mapping[tuple[str, int], int],
    ) -> None: ...


class Replica:
    """Follows one generation until `stop` is set. `run` has one thread; `status` may be asked from any."""

    def __init__(
        self,
        bootstrap: Address,
        topics: Topics,
        copy: Fed,
    ) -> None:
        """Raises BrokerUnavailable or TopicMissing. The copy has been loaded."""
        self._copy = copy
        self._side_of: dict[str, Side] = {topics.vectors(copy.generation, side): side for side in SIDES}
        info = describe(bootstrap, list(self._side_of))
        self._places = [
            (topic, partition)
            for topic, side in self._side_of.items()
            for partition in _followed(copy.shard, side, info[topic].partitions)
        ]
        self._behind = set(self._places)
        self._ends: dict[tuple[str, int], int] = {}  # as they were at the start
        self._consumer = Consumer(follower_consumer(bootstrap))

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set. Raises what the store or the log refuses: the process ends, and restarts from the
        store."""
        offsets = self._copy.offsets()
        # A live topic may have no end that stands still: reaching where it was is enough to be caught up.
        self._ends = {(t, p): bounds(self._consumer, t, p)[1] for t, p in self._places}
        self._consumer.assign([TopicPartition(t, p, offsets.get((t, p), OFFSET_BEGINNING)) for t, p in self._places])
        try:
            while not stop.is_set():
                messages = self._consumer.consume(1, 0.1)
                if messages and not messages[0].error():
                    messages += self._consumer.consume(4095, 0)
                self._apply([m for m in messages if not self._is_mark(m)])
        finally:
            within(CLOSE_S, self._consumer.close)

    def status(self) -> ReplicaStatus:
        """Where this copy stands."""
        return ReplicaStatus(not self._behind, time.time() - self._copy.as_of() / 1000, self._copy.rows())

    def _is_mark(self, message: Message) -> bool:
        """Take in what is no record: an end of a partition, or an error."""
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._PARTITION_EOF:
            self._behind.discard((message.topic(), message.partition()))
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LogGap(
                "the vectors after this copy's offset have left the log",
                where=f"{message.topic()}[{message.partition()}]",
                do="Delete the node's vectors directory: it is rebuilt from the topic",
            )
        else:
            log.warning("kafka: %s", error.str())
        return True

    def _apply(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        newest: dict[Side, dict[str, tuple[int, bytes | None]]] = {side: {} for side in SIDES}
        marks: dict[Side, dict[int, int]] = {side: {} for side in SIDES}
        offsets: dict[Side, dict[tuple[str, int], int]] = {side: {} for side in SIDES}
        for message in messages:
            side, partition = self._side_of[message.topic()], message.partition()
            key, value = message.key(), message.value()
            offsets[side][message.topic(), partition] = message.offset() + 1
            if key == HEARTBEAT_KEY:
                marks[side][partition] = unpack_heartbeat(value or b"")
            elif key is not None:
                newest[side].pop(entity := key.decode(), None)
                newest[side][entity] = (partition, value)
        for side in SIDES:
            if not offsets[side]:
                continue
            puts = [(e, p, v) for e, (p, v) in newest[side].items() if v is not None]
            gone = [e for e, (_, v) in newest[side].items() if v is None]
            self._copy.write(side, puts, gone, marks[side], offsets[side])
            self._behind -= {place for place, offset in offsets[side].items() if offset >= self._ends[place]}
            if newest[side]:
                emit(
                    "applied",
                    side=side,
                    rows=len(newest[side]),
                    seconds=time.time() - messages[-1].timestamp()[1] / 1000,
                )


def _followed(shard: Shard, side: Side, partitions: int) -> list[int]:
    """All items are on every node."""
    return shard.partitions(partitions) if side == "user" else list(range(partitions))
