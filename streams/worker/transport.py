"""What a worker asks of whatever carries its records: a group's membership, reading, one commit at a time, and ends.

A Transport only carries. What to open, fold silently, tell, write and give away is the Worker's to decide
(protocol.py). Implementations stand in streams/transports/; each passes tests/streams/transports/contract.py.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.shares import Shares
from forebay.streams.worker.source import Source


@dataclass(frozen=True)
class End:
    """`offset` is the one after a partition's last record, `readable` the one after the last that is in no open
    transaction, as of some questions ago. Whatever the sources took before `covers_ms` lies below `offset`; 0 where
    nobody can tell. `offset` was asked for at `asked_ms` (this machine's clock)."""

    offset: int
    readable: int
    covers_ms: int
    asked_ms: int = 0


@dataclass(frozen=True)
class Polled:
    """What a poll found: records, a batch for each partition that has some, and the `ends` of partitions that the
    reader met on the way (partition -> offset of the next record). `followed` are records of the followed topic, by its
    own partitions."""

    batches: Sequence[PartitionBatch] = ()
    ends: Mapping[int, int] = field(default_factory=dict)
    followed: Sequence[PartitionBatch] = ()


class Owner(Protocol):
    """Who owns partitions. A Transport calls it from inside `poll` and `close`, on their thread."""

    def assigned(self, partitions: Sequence[int]) -> None:
        """They are this member's now, and stand still until `Transport.go_on`."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """The group gives them away when this returns, and not before."""

    def lost(self, partitions: Sequence[int]) -> None:
        """Another member has had them for some time: nothing may be written any more."""


class Transport(Protocol):
    """One worker's way to what it reads and to the log. One thread calls it; `end` may be asked from any.

    Beside it a second thread may ask `committed` and `shares`, and read.

    What it reads may be several topics: their partitions are numbered from 0 on, one topic after the other. Beside them
    it may follow one topic: all its partitions, from their beginning on, committed records only, whoever owns what.
    Every call comes back in bounded time, and where that takes waiting, soon after `stop` is set.
    """

    group: str  # whose offsets the commits move
    where: str  # for errors: an address

    def source(self, partition: int) -> Source:
        """Which one has this number."""

    @property
    def answered_at(self) -> float:
        """When the other side last answered anything (monotonic s)."""

    @property
    def commit_s(self) -> float:
        """How long a commit usually takes; 0.0 before the first."""

    def join(self, owner: Owner, stop: threading.Event) -> None:
        """Become a member of the group. `owner` hears of partitions in later polls. Called once.

        Raises Fenced where a running worker has the slot: it notices nothing.
        """

    def poll(self, most: int, wait_s: float, hold_s: float = 0.0, ahead_s: float = 0.0) -> Polled:
        """Wait for one record, then take what already waits and what comes within `hold_s`, up to `most` records or
        about a megabyte. This also keeps the membership, and takes what waits of the followed topic.

        Where a commit is under way, a batch that is not full waits for company until `ahead_s` before that commit
        usually ends: the batch cannot be committed earlier, and what comes too late for it waits for one commit more.
        Either wait has a bound of the Transport's own, however long commits take.

        What was fetched before a revoke, or before `go_on`, may be in it. Raises LogGap where what is to be read next
        has left the log, and Fenced when this member cannot go on.
        """

    def catch_up(self, stop: threading.Event) -> Generator[Sequence[PartitionBatch]]:
        """The records of the followed topic that no poll and no catching up has brought, to where it ends now: all that
        was committed to it before the call. Nothing stands for a moment in which nothing came. Ends early when `stop`
        is set, and at once where no topic is followed.

        Raises BrokerUnavailable after 15 s without a word, LogGap where the topic was made anew.
        """

    def hold(self, partitions: Sequence[int]) -> None:
        """Owned partitions stand still until `go_on`."""

    def go_on(self, partition: int, offset: int, stop: threading.Event) -> None:
        """Read an owned partition from `offset`. Raises BrokerUnavailable."""

    def take(self, stop: threading.Event) -> None:
        """Take the slot: whoever had it before is fenced, and what it left open is aborted. A no-op where it is taken.

        Raises Fenced when a running worker has it (a killed one's membership is waited out), BrokerUnavailable.
        """

    def committed(self, partition: int) -> int | None:
        """Where the group is: the next offset, None before its first commit. Asked after `take`, it is final for all
        that a predecessor of the slot did. Raises BrokerUnavailable."""

    def first(self, partition: int) -> int:
        """The first offset that the log still has. Raises BrokerUnavailable."""

    def read(
        self, partition: int, start: int, end: int, most: int, stop: threading.Event
    ) -> Generator[PartitionBatch | None]:
        """The records from `start` to before `end`, in batches of up to `most`, whoever owns the partition. None stands
        for a moment in which nothing came. Ends early when `stop` is set.

        Raises LogGap, or BrokerUnavailable after 15 s without a word.
        """

    def submit(
        self, records: Sequence[Record], offsets: Mapping[int, int], notes: Mapping[int, str], events: int
    ) -> None:
        """Begin one commit, all or nothing: `records`, which so many events became, and the group's new `offsets`, each
        with its note. The commit before is settled.

        Without a taken slot this does nothing: no partition was ever opened then.
        """

    def settle(self, stop: threading.Event) -> bool:
        """Wait for the commit under way; returns whether there was one.

        Raises BrokerError (it was aborted), RecordRefused (aborted, for what is in it), Fenced (another worker has the
        slot or the partitions) or TransactionLost (nobody knows).
        """

    def abandon(self) -> None:
        """After TransactionLost: leave the slot and the commit behind. The next `take` ends what they still do."""

    def shares(self) -> Shares | None:
        """Who has which partitions of the group now; None where this transport cannot tell. From any thread. Raises
        BrokerUnavailable."""

    def end(self, partition: int) -> End | None:
        """Where a partition of the source ends, as last answered; None before the first answer."""

    def reset_command(self, partition: int, offset: int) -> str:
        """For an error: what an operator does to move the group's offset."""

    def close(self) -> None:
        """Leave the group: `Owner.revoked` is not called. Nothing is called after it."""
