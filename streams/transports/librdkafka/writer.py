"""A worker's way into the log: the transactional id of its slot, the commit under way, and what happens when either is
lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TopicPartition

from forebay.errors import Fenced, TransactionLost
from forebay.streams.cluster import Address
from forebay.streams.transports.librdkafka.commits import Commits
from forebay.streams.transports.librdkafka.groups import Member, members
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import Record
from forebay.streams.worker.refusals import slot_taken
from forebay.telemetry import emit

_ASK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Slot:
    """One worker's place in its group. `client` is its name among the members, `transactional_id` what fences its
    predecessor."""

    bootstrap: Address
    stage: str
    name: str
    group: str
    client: str
    session_timeout_ms: int
    transaction_timeout_ms: int

    @property
    def transactional_id(self) -> str:
        return f"{self.group}.{self.name}"


class Writer:
    """Commits one batch after another for a slot. One thread calls it; the commits run on another."""

    def __init__(self, slot: Slot, member: Callable[[], str]) -> None:
        """Nothing is taken before `take`. `member` tells this worker's id in the group as it is now."""
        self._slot, self._member = slot, member
        self._log: TransactionLog | None = None
        self._commits: Commits | None = None

    def take(self, stop: threading.Event) -> None:
        """The slot's transactional id, unless a running worker has it.

        Raises Fenced when another member has the slot (a killed one's membership is waited out), BrokerUnavailable.
        """
        if self._log is not None:
            return
        self._refuse_taken(stop)
        slot, timeout_s = self._slot, self._slot.transaction_timeout_ms / 1000
        self._log = TransactionLog(
            slot.bootstrap, f"the {slot.stage} worker",
            transactional_id=slot.transactional_id, timeout_ms=slot.transaction_timeout_ms,
            operation_timeout_s=timeout_s,
        )  # fmt: skip
        # Flush, offsets (twice its time-out, as seen), commit and abort may each take theirs.
        self._commits = Commits(f"commit-{slot.stage}", 6 * timeout_s)

    def submit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any, events: int) -> None:
        """Begin a commit of what so many events became. The one before is settled. Without a taken slot, nothing was
        ever assigned, and nothing is to be told."""
        if self._log is None or self._commits is None:
            return
        log, stage = self._log, self._slot.stage

        def commit() -> None:
            started = time.perf_counter()
            log.commit(records, offsets, group)
            took = time.perf_counter() - started
            emit("step", number=4, name="transact", stage=stage, seconds=took, events=events)

        self._commits.submit(commit)

    @property
    def usual_s(self) -> float:
        """How long a commit usually takes; 0.0 before the first."""
        return 0.0 if self._commits is None else self._commits.usual.seconds

    @property
    def left_s(self) -> float:
        """How long the commit under way still takes, as commits usually do; 0.0 where none is."""
        return 0.0 if self._commits is None else self._commits.left_s

    def settle(self, stop: threading.Event) -> bool:
        """Wait for the commit under way, with a bound, a short one once `stop` is set; returns whether there was one.
        Raises what the commit raised, or TransactionLost.

        A producer can be fenced by an earlier one of this very worker, and a member of its name can be a request of its
        own: what a frozen broker was asked may be heard last. Who is in the slot is for `take` to find out.
        """
        try:
            return self._commits is not None and self._commits.settle(stop)
        except Fenced as error:
            raise TransactionLost(
                f"{error.what}; it is taken again where nobody else is in it", where=error.where
            ) from None

    def abandon(self) -> None:
        """Leave the id and its thread behind: the next producer of the id fences what they still do."""
        if self._commits is not None:
            self._commits.leave()
        self._log = self._commits = None

    def close(self) -> None:
        """The end. A thread that does not come back is left behind."""
        if self._log is not None and self._commits is not None and self._commits.leave():
            self._log.close()
        self._log = self._commits = None

    def _others(self) -> list[Member]:
        slot, mine = self._slot, self._member()
        return [m for m in members(slot.bootstrap, slot.group) if m.client == slot.client and m.id != mine]

    def _refuse_taken(self, stop: threading.Event) -> None:
        slot = self._slot
        deadline = time.monotonic() + slot.session_timeout_ms / 1000 + 2
        while not stop.is_set():
            others = self._others()
            if not others:
                return
            if time.monotonic() > deadline:
                raise slot_taken(slot.name, slot.group, f" at {others[0].host}")
            stop.wait(_ASK_AGAIN_S)
