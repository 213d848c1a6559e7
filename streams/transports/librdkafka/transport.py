"""The librdkafka transport: a consumer of the group that is librdkafka's."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Message,
    TopicPartition,
)

from forebay.errors import BrokerUnavailable
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.transports.librdkafka.grouplog import GroupLog
from forebay.streams.transports.librdkafka.groups import assignments, leave, members
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.transports.librdkafka.messages import batch_of, is_end, judge, more
from forebay.streams.transports.librdkafka.seat import Seat
from forebay.streams.worker.refusals import grown
from forebay.streams.worker.shares import Shares
from forebay.streams.worker.transport import Owner, Polled

SEEK_S = 2.0
COORDINATED_S = 60.0  # until a broker that answers knows its groups: after a crash a busy one took half a minute
log = logging.getLogger("forebay.librdkafka")


class LibrdkafkaTransport(GroupLog):
    """Transport of one stage: a consumer of librdkafka's is the member."""

    def __init__(self, membership: Membership) -> None:
        super().__init__(membership)
        seats, slot = membership.seats, self._slot
        static = {} if seats is None else {"group.instance.id": slot.client}
        self._consumer = Consumer(self._settings(self.group) | {"client.id": slot.client} | static)
        self._asking = self._consumer
        self._seat = (
            None if seats is None else Seat(seats / f".seat-{membership.name}-{slot.name}", slot.name, self.group)
        )
        self._owner: Owner | None = None
        self._next: dict[int, int] = {}  # of partitions that are read: no record below it is delivered

    def _member_id(self) -> str:
        return self._consumer.memberid()

    def _membership(self) -> Any:
        return self._consumer.consumer_group_metadata()

    def shares(self) -> Shares:
        """See Transport."""
        found = assignments(self._bootstrap, self.group)
        known = {m: [self._numbers[at] for at in places if at in self._numbers] for m, places in found.items()}
        return Shares(self._consumer.memberid(), known)

    # -- membership and reading

    def join(self, owner: Owner, stop: threading.Event) -> None:
        """See Transport."""
        self._owner = owner
        self._take_seat(stop)
        if stop.is_set():  # whoever has the slot would be fenced by a member of its name
            return
        topics = list(dict.fromkeys(source.topic for source in self._sources))
        self._consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self._begin()

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        """See Transport."""
        messages = self._consumer.consume(1, wait_s)
        if self._seat is not None:
            self._seat.sit(self._consumer.memberid())
        if most > 1 and messages and not messages[0].error():
            messages += more(self._consumer, messages[0], most - 1, self._hold_s(hold_s, ahead_s))
        by_partition: dict[int, list[Message]] = {}
        ends: dict[int, int] = {}
        fell_back: set[int] = set()
        for message in messages:
            number, offset = self._number(message), message.offset()
            if (error := message.error()) is not None and not is_end(message):
                judge(error, message, self.where)
            elif offset < self._next.get(number, 0):
                fell_back.add(number)
            elif number not in self._next:
                continue  # fetched before it was to stand still
            elif error is not None:
                ends[number] = offset
            else:
                by_partition.setdefault(number, []).append(message)
                self._next[number] = offset + 1
        self._move_on(fell_back)
        # Last: what is raised above would lose it, and it is read once.
        return Polled([batch_of(p, m) for p, m in by_partition.items()], ends, self._followed())

    def _move_on(self, partitions: Iterable[int]) -> None:
        """An assignment that was still looking for its beginning when it was moved goes back to there afterwards, past
        what it has delivered (librdkafka 2.16)."""
        for partition in partitions:
            log.debug("%s: its reader fell back, and is moved to %d", self.source(partition), self._next[partition])
            with contextlib.suppress(KafkaException):  # it is moved with the next poll
                self._consumer.seek(self._place(partition, self._next[partition]))

    def hold(self, partitions: Sequence[int]) -> None:
        """See Transport."""
        for partition in partitions:
            self._next.pop(partition, None)
        self._consumer.pause([self._place(p) for p in partitions])

    def go_on(self, partition: int, offset: int, stop: threading.Event) -> None:
        """See Transport. An assignment takes a moment before it can be moved."""
        place, deadline = self._place(partition, offset), time.monotonic() + SEEK_S
        while True:
            try:
                self._consumer.seek(place)
                break
            except KafkaException as error:
                if time.monotonic() > deadline:
                    said = f"its reader does not start: {error.args[0].str()}"
                    raise BrokerUnavailable(said, where=str(self.source(partition))) from None
                stop.wait(0.02)
        self._next[partition] = offset
        self._consumer.resume([place])

    def close(self) -> None:
        """See Transport."""
        self._owner = None
        self._let_go_of(self._leave)

    def _leave(self) -> None:
        member = self._consumer.memberid()
        within(CLOSE_S, self._consumer.close)
        if self._seat is not None:
            # A static member is not missed before its session ends: the others are told.
            if member:
                within(CLOSE_S, lambda: leave(self._bootstrap, self.group, member, self._slot.client))
            self._seat.leave()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        known = [tp for tp in partitions if (tp.topic, tp.partition) in self._numbers]
        # From the beginning, and standing still: what is fetched all the same lies before where the owner goes on.
        consumer.incremental_assign([TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in known])
        consumer.pause(known)
        for tp in partitions:
            if tp not in known:
                had = sum(source.topic == tp.topic for source in self._sources)
                raise grown(tp.topic, tp.partition + 1, had, self.where)
        if self._owner is not None:
            self._owner.assigned(self._numbers_of(partitions))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        try:
            if self._owner is not None:
                self._owner.revoked(self._numbers_of(partitions))
        finally:
            consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        try:
            if self._owner is not None:
                self._owner.lost(self._numbers_of(partitions))
        finally:
            consumer.incremental_unassign(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        for number in self._numbers_of(partitions):
            self._next.pop(number, None)

    # -- places

    def _number(self, message: Message) -> int:
        return self._numbers.get((message.topic(), message.partition()), -1)

    def _take_seat(self, stop: threading.Event) -> None:
        deadline = time.monotonic() + COORDINATED_S
        while self._seat is not None and not stop.is_set():
            try:
                self._seat.take(self._slot.session_timeout_ms / 1000, self._in_my_slot, stop)
                return
            except BrokerUnavailable:  # its coordinator may be loading
                if time.monotonic() > deadline:
                    raise
                stop.wait(0.5)

    def _in_my_slot(self) -> set[str]:
        return {m.id for m in members(self._bootstrap, self.group) if m.client == self._slot.client}

    def _numbers_of(self, places: Sequence[TopicPartition]) -> list[int]:
        found = (self._numbers.get((place.topic, place.partition)) for place in places)
        return [number for number in found if number is not None]
