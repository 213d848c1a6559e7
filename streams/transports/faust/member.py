"""One member of a group over aiokafka's consumer, which is the one that faust runs. All of it runs on the consumer's
own loop, in the consumer's thread; `news` and `identity` are read by the worker's thread.

A rebalance never waits for the worker: the member says at once what it still has (shares.py), and keeps reading what
stays. What goes is told to the worker, and given away when the worker has let go of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiokafka.abc
from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    InconsistentGroupProtocolError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from forebay.errors import ConfigError, Fenced
from forebay.streams.transports.faust.hooks import held
from forebay.streams.transports.faust.identity import Identity
from forebay.streams.transports.faust.shares import Place
from forebay.streams.transports.librdkafka.messages import MOST_BYTES
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.refusals import grown, overtaken
from forebay.streams.worker.source import Source
from forebay.telemetry import emit

MOST_WAIT_S = 0.05  # beyond what a fetch was asked to wait: aiokafka's waits for the end of a rebalance, however long
AGAIN_S = 0.2  # after an error that aiokafka mends by itself
log = logging.getLogger("forebay.faust")


@dataclass(frozen=True)
class News:
    """What has happened to partitions. After `lost` the worker is in its `life` number so many."""

    kind: Literal["assigned", "revoked", "lost"]
    partitions: tuple[int, ...]
    life: int


@dataclass(frozen=True)
class Fetched:
    """What a fetch brought, by partition, and the ends that were met (the offset of the next record)."""

    batches: Sequence[PartitionBatch] = ()
    ends: Mapping[int, int] = field(default_factory=dict)


class Member(aiokafka.abc.ConsumerRebalanceListener):  # type: ignore[misc]
    """`begin` is called with the consumer before all else."""

    def __init__(self, sources: Sequence[Source], where: str, stage: str) -> None:
        """`sources` by number; `where` is the broker, for errors, and `stage` a name, for metrics."""
        self._sources, self._where, self._stage = sources, where, stage
        self._numbers = {(s.topic, s.partition): number for number, s in enumerate(sources)}
        self._consumer: Any = None
        self._has: set[int] = set()  # given by the group, and not let go of
        self._going: set[int] = set()  # of those: to be let go of
        self._reads: dict[int, int] = {}  # of those: partitions that are read, and the next offset of each
        self._told: dict[int, int] = {}  # the ends that were told
        self._said: frozenset[int] = frozenset()  # what it had when it last joined: the group goes by it
        self._joining, self._began = True, 0.0
        self._unknown: Place | None = None  # a partition that was not there when the worker started
        self.news: deque[News] = deque()
        self.identity = Identity()

    def begin(self, consumer: Any) -> None:
        """Become a member by this consumer, which has not been told to read anything. Raises HookMissing."""
        held(consumer._coordinator, "generation", "member_id")
        self._consumer = consumer
        consumer.subscribe(topics=list(dict.fromkeys(source.topic for source in self._sources)), listener=self)

    @property
    def id(self) -> str:
        """The broker's name for this member; "" before it has one."""
        return "" if self._consumer is None else self._consumer._coordinator.member_id

    # -- called by aiokafka

    def still(self) -> list[Place]:
        """What this member has, asked when it joins."""
        self._look_whether_lost()
        self._said = frozenset(self._has)
        return [(self._sources[p].topic, self._sources[p].partition) for p in sorted(self._has)]

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """A rebalance begins. Nothing has to be given up for it."""
        self._joining, self._began = True, time.monotonic()
        self._look_whether_lost()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """A rebalance has ended. No line waits here: aiokafka fetches when it is first waited for."""
        numbers = {self._numbers.get((tp.topic, tp.partition), -1): tp for tp in assigned}
        if (stranger := numbers.pop(-1, None)) is not None:
            self._unknown = (stranger.topic, stranger.partition)
            self._consumer.seek(stranger, 0)
            self._consumer.pause(stranger)
        mine = self._has - self._going
        gone, fresh = mine - numbers.keys(), numbers.keys() - self._has
        self._going |= gone
        self._has |= fresh
        for partition in gone:
            self._stand(partition)
        for partition, tp in numbers.items():
            if partition in self._reads:
                self._consumer.seek(tp, self._reads[partition])
            else:
                self._consumer.seek(tp, 0)
                self._consumer.pause(tp)
        life, coordinator = self.identity.life, self._consumer._coordinator
        if gone:
            self.news.append(News("revoked", tuple(sorted(gone)), life))
        if fresh:
            self.news.append(News("assigned", tuple(sorted(fresh)), life))
        self.identity = Identity(life, coordinator.generation, coordinator.member_id)
        self._joining = False
        # What the worker let go of after the join was given to nobody: the group took it for this member's. What
        # `let_go` asked for is forgotten by aiokafka when it asks for the assignment, so it is asked for here.
        if not self._said <= numbers.keys() | self._has:
            coordinator.request_rejoin()
        emit("rebalanced", stage=self._stage, seconds=time.monotonic() - self._began)

    def _look_whether_lost(self) -> None:
        """The group has given this member up: others may have had its partitions for some time."""
        if self._consumer._coordinator.generation >= 0 or not self._has:
            return
        before = self.identity
        self.identity = Identity(before.life + 1, before.generation, before.member)
        self.news.append(News("lost", tuple(sorted(self._has)), before.life + 1))
        for partition in self._has:
            self._stand(partition)
        self._has.clear()
        self._going.clear()

    # -- called by the worker, through its transport

    async def hold(self, partitions: Collection[int]) -> None:
        """They stand still until `go_on`."""
        for partition in partitions:
            self._stand(partition)
            if (tp := self._assigned(partition)) is not None:
                self._consumer.pause(tp)

    async def go_on(self, partition: int, offset: int) -> None:
        """Read a partition from `offset`, unless it is not this member's any more. In a rebalance it begins when that
        has ended."""
        if partition not in self._has or partition in self._going:
            return
        self._reads[partition] = offset
        if (tp := self._assigned(partition)) is not None:
            self._consumer.seek(tp, offset)
            self._consumer.resume(tp)

    async def let_go(self, partitions: Collection[int]) -> None:
        """The worker has let go of partitions that were to go: the next round gives them away."""
        done = self._going.intersection(partitions)
        if done:
            self._has -= done
            self._going -= done
            self._consumer._coordinator.request_rejoin()

    async def fetch(self, most: int, wait_s: float, hold_s: float) -> Fetched:
        """Wait for one record, then take what is there, and what comes within `hold_s`: up to `most` records, about a
        megabyte. Comes back at once where there is news.

        What is not taken stays with aiokafka, which fetches no more of a partition before it is: one answer of the
        broker for each partition is all that ever waits.
        """
        self._raise_if_grown()
        found = await self._some(most, wait_s)
        count, size, until = _count(found), _size(found), time.monotonic() + hold_s
        while found and count < most and size < MOST_BYTES and not self.news:
            part = await self._some(most - count, max(0.0, until - time.monotonic()))
            if not part:
                break
            for partition, records in part.items():
                found.setdefault(partition, []).extend(records)
            count, size = count + _count(part), size + _size(part)
        return Fetched([_batch(p, records) for p, records in found.items()], await self._met())

    async def _some(self, most: int, wait_s: float) -> dict[int, list[Any]]:
        """Records of partitions that are read; none where there is news, or a rebalance."""
        if self.news:
            return {}
        try:
            self._consumer._coordinator.check_errors()
            if self._joining:
                await asyncio.sleep(min(wait_s, MOST_WAIT_S))
                return {}
            asked = self._consumer.getmany(timeout_ms=round(wait_s * 1000), max_records=most)
            found = await asyncio.wait_for(asked, wait_s + MOST_WAIT_S)
        except TimeoutError:
            return {}
        except KafkaError as error:
            self._judge(error)
            await asyncio.sleep(AGAIN_S)
            return {}
        taken = {}
        for tp, records in found.items():
            partition = self._numbers.get((tp.topic, tp.partition), -1)
            start = self._reads.get(partition)
            # What was fetched before it was to stand still, or go elsewhere, is not what is to be read next.
            if start is not None and (fit := [r for r in records if r.offset >= start]):
                taken[partition] = fit
                self._reads[partition] = fit[-1].offset + 1
        return taken

    async def _met(self) -> dict[int, int]:
        """Partitions that were read up to their readable end, each end once."""
        found: dict[int, int] = {}
        for partition in list(self._reads):
            tp = None if self._joining else self._assigned(partition)
            if tp is None or (end := self._consumer.last_stable_offset(tp)) is None:
                continue
            at = await self._consumer.position(tp)  # has been set: nothing is waited for
            if at >= end and self._told.get(partition) != at:
                found[partition] = self._told[partition] = at
        return found

    def _stand(self, partition: int) -> None:
        self._reads.pop(partition, None)
        self._told.pop(partition, None)

    def _assigned(self, partition: int) -> TopicPartition | None:
        source = self._sources[partition]
        tp = TopicPartition(source.topic, source.partition)
        return tp if tp in self._consumer.assignment() else None

    def _raise_if_grown(self) -> None:
        if self._unknown is not None:
            topic, partition = self._unknown
            raise grown(topic, partition + 1, sum(s.topic == topic for s in self._sources), self._where)

    def _judge(self, error: KafkaError) -> None:
        """Log an error that the client mends by itself, and raise the others by name."""
        if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
            raise overtaken(_named(error)) from None
        if isinstance(error, InconsistentGroupProtocolError):
            raise ConfigError(
                "the group has members of another transport",
                where=self._where,
                do="Stop all of its workers, then start them with the same --transport",
            ) from None
        if isinstance(error, ConsumerStoppedError) or not (
            error.retriable or isinstance(error, CorruptRecordException)
        ):
            raise Fenced(f"the consumer cannot go on: {error!r}", where=self._where) from None
        log.warning("kafka: %r", error)


def _named(error: KafkaError) -> str:
    """The partitions that an error of aiokafka's has in it."""
    said = error.args[0] if error.args else ()
    return ", ".join(f"{tp.topic}[{tp.partition}]" for tp in said) if isinstance(said, dict) else str(said)


def _count(found: Mapping[int, Sequence[Any]]) -> int:
    return sum(len(records) for records in found.values())


def _size(found: Mapping[int, Sequence[Any]]) -> int:
    # Sizes of an absent key or value are -1.
    return sum(
        max(0, r.serialized_key_size) + max(0, r.serialized_value_size) for records in found.values() for r in records
    )


def _batch(partition: int, records: Sequence[Any]) -> PartitionBatch:
    return PartitionBatch(
        partition,
        [r.key for r in records],
        [r.value for r in records],
        [r.offset for r in records],
        [r.timestamp for r in records],
        [r.headers for r in records],
    )
