"""The faust transport: the member of the group is a consumer of a faust app, and the worker's thread asks it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import TimeoutError as Late
from typing import Any, TypeVar

from confluent_kafka import Consumer
from faust.exceptions import ConsumerNotStarted

from forebay.errors import BrokerUnavailable, Fenced
from forebay.streams.bounded import CLOSE_S, within
from forebay.streams.clients import asking_consumer
from forebay.streams.transports.faust.consumer import StageConsumer
from forebay.streams.transports.faust.identity import Identity
from forebay.streams.transports.faust.member import Member, News
from forebay.streams.transports.librdkafka.grouplog import GroupLog
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.worker.transport import Owner, Polled

T = TypeVar("T")
ANSWER_S = 10.0  # of the consumer's loop: it has a thread of its own and nothing else to do


class FaustTransport(GroupLog):
    """Transport of one stage. The app's loop has no part in it: neither waits for the other."""

    def __init__(self, app: Any, membership: Membership) -> None:
        """The app's own settings say where its consumer connects to, those of `membership` where all else does. Seats
        are not taken."""
        super().__init__(membership)
        self._app = app
        self._member = Member(self._sources, self.where, membership.name)
        self._asking = Consumer(asking_consumer(membership.bootstrap, committed=True) | {"group.id": self.group})
        self._owner: Owner | None = None
        self._service: StageConsumer | None = None
        self._identity = Identity()  # as the owner knows it: see `_membership`

    def carrier(self) -> StageConsumer:
        """The consumer, a service to be started with the app. To be made on the app's loop, before anything is asked of
        this."""
        self._service = StageConsumer(self._app, self._member, self.group, self._slot.client, self._options)
        return self._service

    def _member_id(self) -> str:
        return self._member.id

    def _membership(self) -> bytes:
        """As of the newest rebalance. Where the group gave this member up and its owner has not heard of it, those of
        before: the owner's state may be behind by then, and what it commits is to be refused."""
        found = self._member.identity
        if found.life == self._identity.life:
            self._identity = found
        return self._identity.metadata(self.group)

    # -- membership and reading

    def join(self, owner: Owner, stop: threading.Event) -> None:
        """See Transport. That a running worker has the slot is found when it is taken."""
        self._owner = owner
        self._ask(self._join())
        self._begin()

    async def _join(self) -> None:
        assert self._service is not None, "its carrier comes first"
        self._member.begin(self._service.carried)

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        """See Transport."""
        while self._member.news:
            self._tell(self._member.news.popleft())
        held_s = self._hold_s(hold_s, ahead_s) if most > 1 else 0.0
        found = self._ask(self._member.fetch(most, wait_s, held_s), wait_s + held_s + ANSWER_S)
        # Last: what is raised above would lose it, and it is read once.
        return Polled(found.batches, found.ends, self._followed())

    def _tell(self, news: News) -> None:
        owner = self._owner
        if owner is None:
            return
        if news.kind == "assigned":
            owner.assigned(news.partitions)
        elif news.kind == "lost":
            self._identity = Identity(news.life)
            owner.lost(news.partitions)
        else:
            try:
                owner.revoked(news.partitions)
            finally:
                self._ask(self._member.let_go(news.partitions))

    def hold(self, partitions: Sequence[int]) -> None:
        """See Transport."""
        self._ask(self._member.hold(partitions))

    def go_on(self, partition: int, offset: int, stop: threading.Event) -> None:
        """See Transport."""
        self._ask(self._member.go_on(partition, offset))

    def close(self) -> None:
        """See Transport."""
        self._owner = None
        self._let_go_of(self._leave)
        within(CLOSE_S, self._asking.close)

    def _leave(self) -> None:
        service = self._service
        if service is not None:
            with contextlib.suppress(Fenced, BrokerUnavailable, ConsumerNotStarted):
                self._ask(service.carried.stop(), CLOSE_S)

    def _ask(self, question: Coroutine[Any, Any, T], within_s: float = ANSWER_S) -> T:
        """What a coroutine of the member returns, on its loop. Raises what it raises, BrokerUnavailable and Fenced."""
        assert self._service is not None, "its carrier comes first"
        try:
            asked = asyncio.run_coroutine_threadsafe(question, self._service.thread_loop)
        except RuntimeError:  # its loop is closed
            question.close()
            raise Fenced("the app's consumer has stopped", where=self.where) from None
        try:
            return asked.result(within_s)
        except Late:
            asked.cancel()
            raise BrokerUnavailable(
                f"the app's consumer does not answer in {within_s:.0f} s", where=self.where
            ) from None
