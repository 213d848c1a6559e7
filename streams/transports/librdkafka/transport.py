"""The librdkafka transport: a consumer of the group that is librdkafka's."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from forebay.errors import BrokerUnavailable
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.transports.librdkafka.grouplog import GroupLog
from forebay.streams.transports.librdkafka.groups import assignments, leave, members
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.transports.librdkafka.messages import batch_of, is_end, is_fatal, judge, more
from forebay.streams.transports.librdkafka.seat import PATIENCE_S, Seat
from forebay.streams.worker.refusals import grown, slot_taken
from forebay.streams.worker.shares import Shares
from forebay.streams.worker.transport import Owner, Polled

SEEK_S = 2.0
ASK_AGAIN_S = 0.5
COORDINATED_S = 60.0  # until a broker that answers knows its groups: after a crash a busy one took half a minute
log = logging.getLogger("forebay.librdkafka")


class LibrdkafkaTransport(GroupLog):
    """Transport of one stage: a consumer of librdkafka's is the member.

    A static member can be fenced by an earlier request of its own, which a frozen broker hears last. The group then has
    a member of this name that nobody is, until its session ends. librdkafka's consumer does nothing any more, and
    another one takes its place once the name is free.
    """

    def __init__(self, membership: Membership) -> None:
        super().__init__(membership)
        seats, slot = membership.seats, self._slot
        self._static = {} if seats is None else {"group.instance.id": slot.client}
        self._asking = self._consumer = self._outside()
        self._seat = (
            None if seats is None else Seat(seats / f".seat-{membership.name}-{slot.name}", slot.name, self.group)
        )
        self._owner: Owner | None = None
        self._stop = threading.Event()
        self._mine: set[int] = set()
        self._fenced_at: float | None = None  # while this process is no member (monotonic s)
        self._ask_at = 0.0
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
        self._owner, self._stop = owner, stop
        self._take_seat(stop)
        if stop.is_set():  # whoever has the slot would be fenced by a member of its name
            return
        self._enter()
        self._begin()

    def _outside(self) -> Consumer:
        """A consumer with the group's id that is no member of it."""
        return Consumer(self._settings(self.group) | {"client.id": self._slot.client} | self._static)

    def _enter(self) -> None:
        topics = list(dict.fromkeys(source.topic for source in self._sources))
        self._consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        """See Transport."""
        if self._fenced_at is not None:
            self._enter_again(self._fenced_at, wait_s)
            return Polled(followed=self._followed())
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
                if is_fatal(error) and self._static:
                    self._fall_out(error.str())
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

    def _fall_out(self, said: str) -> NoReturn:
        """The group has another member of this name: what this one had is lost, and its consumer is left for a new
        one. Raises BrokerUnavailable, or what the owner does."""
        old, self._asking = self._consumer, self._outside()
        self._consumer = self._asking  # before the old one is closed: what that still calls is not for the owner
        self._fenced_at, self._ask_at = time.monotonic(), 0.0
        lost, self._mine = sorted(self._mine), set()
        self._next.clear()
        within(CLOSE_S, old.close)
        if lost and self._owner is not None:
            self._owner.lost(lost)
        raise BrokerUnavailable(f"the group has another member of this name: {said}", where=f"group {self.group}")

    def _enter_again(self, fenced_at: float, wait_s: float) -> None:
        """Become a member once no other one has this name. Raises Fenced where one stays: another process runs in this
        slot."""
        self._stop.wait(wait_s)
        now = time.monotonic()
        if now < self._ask_at or self._stop.is_set():
            return
        try:
            others = self._in_my_slot()
        except BrokerUnavailable:
            return
        finally:
            self._ask_at = time.monotonic() + ASK_AGAIN_S
        if not others:
            self._fenced_at = None
            self._enter()
        elif now - fenced_at > 2 * self._slot.session_timeout_ms / 1000 + PATIENCE_S:
            raise slot_taken(self._slot.name, self.group)

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
                within(CLOSE_S, lambda: self._tell(member))
            self._seat.leave()

    def _tell(self, member: str) -> None:
        with contextlib.suppress(BrokerUnavailable):  # then the group misses it after its session
            leave(self._bootstrap, self.group, member, self._slot.client)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        known = [tp for tp in partitions if (tp.topic, tp.partition) in self._numbers]
        # From the beginning, and standing still: what is fetched all the same lies before where the owner goes on.
        consumer.incremental_assign([TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in known])
        consumer.pause(known)
        for tp in partitions:
            if tp not in known:
                had = sum(source.topic == tp.topic for source in self._sources)
                raise grown(tp.topic, tp.partition + 1, had, self.where)
        self._mine.update(self._numbers_of(partitions))
        if self._owner is not None:
            self._owner.assigned(self._numbers_of(partitions))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            if consumer is self._consumer:
                self._forget(partitions)
                if self._owner is not None:
                    self._owner.revoked(self._numbers_of(partitions))
        finally:
            consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            if consumer is self._consumer:
                self._forget(partitions)
                if self._owner is not None:
                    self._owner.lost(self._numbers_of(partitions))
        finally:
            consumer.incremental_unassign(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        for number in self._numbers_of(partitions):
            self._next.pop(number, None)
            self._mine.discard(number)

    # -- places

    def _number(self, message: Message) -> int:
        return self._numbers.get((message.topic(), message.partition()), -1)

    def _take_seat(self, stop: threading.Event) -> None:
        deadline = time.monotonic() + COORDINATED_S
        while self._seat is not None and not stop.is_set():
            try:
                self._seat.take(self._slot.session_timeout_ms / 1000, self._in_my_slot, stop, PATIENCE_S)
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
