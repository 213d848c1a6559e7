"""A log in memory that keeps what Kafka promises: offsets, transactions with their marks, groups whose generations
fence, transactional ids whose epochs do.

Nothing in it waits, and nothing happens by itself: whoever uses it says when a write lands, when a member's session is
over, and whether the broker answers. So a simulation decides every order of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from forebay.errors import BrokerError, BrokerUnavailable, Fenced, RecordRefused, TransactionLost

MAX_RECORD_BYTES = 1_000_000  # Kafka's default, about


@dataclass(frozen=True)
class Stored:
    """A record in its place. `append_time` (ms) is the log's."""

    offset: int
    key: bytes | None
    value: bytes | None
    append_time: int
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class Sent:
    """A record on its way to a partition."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(eq=False)
class Member:
    """One consumer of a group. `generation` is the group's as of this member's last poll; `running` False is that of a
    process that is gone, and whose session is not over yet."""

    group: Group
    client: str
    generation: int = -1
    running: bool = True
    owned: set[int] = field(default_factory=set)

    @property
    def expelled(self) -> bool:
        """Whether the group goes on without it."""
        return self not in self.group.members


@dataclass(eq=False)
class Group:
    """Members, who may own what of so many partitions, and the next offset of each, with its note. The one who is to
    have a partition gets it when its owner has given it away."""

    partitions: int
    members: list[Member] = field(default_factory=list)
    generation: int = 0
    wanted: dict[int, Member] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)

    def change(self) -> None:
        """Begin a generation: each member gets its share, and keeps what it has as far as that goes."""
        self.generation += 1
        self.wanted = {}
        if not self.members:
            return
        share = -(-self.partitions // len(self.members))
        counts = {id(member): 0 for member in self.members}
        left = []
        for partition in range(self.partitions):
            owner = next((m for m in self.members if partition in m.owned and counts[id(m)] < share), None)
            if owner is None:
                left.append(partition)
            else:
                self.wanted[partition] = owner
                counts[id(owner)] += 1
        for partition in left:
            fewest = min(self.members, key=lambda m: counts[id(m)])
            self.wanted[partition] = fewest
            counts[id(fewest)] += 1

    def free(self, partition: int) -> bool:
        """Whether no member has it."""
        return not any(partition in member.owned for member in self.members)


@dataclass(eq=False)
class Write:
    """One transaction: its records, the offsets of `member`'s group, and the epoch and generation that it was begun in.
    It is open until it lands or is aborted, which leaves its `error`."""

    producer: str
    epoch: int
    member: Member
    generation: int
    records: Sequence[Sent]
    offsets: Mapping[int, int]
    notes: Mapping[int, str]
    open: bool = True
    error: BrokerError | None = None


class MemoryLog:
    """Topics, groups and producers. One thread."""

    def __init__(self, wall_ms: Callable[[], int], *, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        """`wall_ms` is the clock of append times."""
        self.up = True  # whether it answers
        self.landed: list[Callable[[Write], None]] = []  # called with each write, after it
        self._wall_ms, self._max_record_bytes = wall_ms, max_record_bytes
        self._records: dict[str, list[list[Stored | None]]] = {}  # None: a transaction's mark
        self._first: dict[tuple[str, int], int] = {}
        self._newest: dict[tuple[str, int], int] = {}
        self._groups: dict[str, Group] = {}
        self._epochs: dict[str, int] = {}
        self.open: list[Write] = []

    def now_ms(self) -> int:
        """By the clock of append times."""
        return self._wall_ms()

    # -- topics

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic."""
        self._records[topic] = [[] for _ in range(partitions)]

    def partitions(self, topic: str) -> int:
        """How many it has."""
        return len(self._records[topic])

    def append(self, sent: Sent) -> int:
        """A producer's record, without a transaction; returns its offset."""
        place = (sent.topic, sent.partition)
        self._newest[place] = max(self._wall_ms(), self._newest.get(place, 0))
        records = self._records[sent.topic][sent.partition]
        records.append(Stored(len(records), sent.key, sent.value, self._newest[place], sent.headers))
        return len(records) - 1

    def records(self, topic: str, partition: int, start: int = 0, end: int | None = None) -> list[Stored]:
        """What is between two offsets, marks left out."""
        first = max(start, self.first(topic, partition))
        return [record for record in self._records[topic][partition][first:end] if record is not None]

    def first(self, topic: str, partition: int) -> int:
        """The first offset kept."""
        return self._first.get((topic, partition), 0)

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last."""
        return len(self._records[topic][partition])

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """What retention does."""
        self._first[topic, partition] = offset

    # -- groups

    def group(self, name: str, partitions: int) -> Group:
        """A group over so many partitions, whatever they are."""
        return self._groups.setdefault(name, Group(partitions))

    def join(self, group: Group, client: str) -> Member:
        """A new member, which owns nothing yet."""
        member = Member(group, client)
        group.members.append(member)
        group.change()
        return member

    def leave(self, member: Member) -> None:
        """The member goes, or its session is over: others may own what it had, whether it knows or not."""
        if not member.expelled:
            member.group.members.remove(member)
            member.group.change()

    def give_away(self, member: Member, partitions: Iterable[int]) -> None:
        """The member has let go of partitions."""
        member.owned.difference_update(partitions)
        if not member.expelled:
            member.group.generation += 1

    # -- transactions

    def take(self, producer: str) -> int:
        """The next epoch of a transactional id; what an earlier one left open is aborted. Raises BrokerUnavailable."""
        self.ask()
        for write in [w for w in self.open if w.producer == producer]:
            self._abort(write, _fenced())
        self._epochs[producer] = self._epochs.get(producer, -1) + 1
        return self._epochs[producer]

    def begin(self, write: Write) -> None:
        """A transaction under way: it may land at any time until its id is taken anew."""
        self.open.append(write)

    def land(self, write: Write) -> None:
        """Commit. Raises TransactionLost while the broker is away (the write stays open), Fenced, BrokerError or
        RecordRefused (it is aborted)."""
        if not self.up:
            raise TransactionLost("how a transaction ended is not known: the broker is away", where="memory")
        if (error := self._refusal(write)) is not None:
            self._abort(write, error)
            raise error
        write.open = False
        self.open.remove(write)
        for sent in write.records:
            self.append(sent)
        for topic, partition in dict.fromkeys((sent.topic, sent.partition) for sent in write.records):
            self._records[topic][partition].append(None)
        write.member.group.offsets.update(write.offsets)
        write.member.group.notes.update({p: write.notes.get(p, "") for p in write.offsets})
        for listener in self.landed:
            listener(write)

    def ask(self) -> None:
        """Raise BrokerUnavailable while the broker is away."""
        if not self.up:
            raise BrokerUnavailable("no answer", where="memory")

    def _refusal(self, write: Write) -> BrokerError | None:
        if not write.open or self._epochs[write.producer] != write.epoch:
            return _fenced()
        if write.offsets and (write.member.expelled or write.generation != write.member.group.generation):
            return BrokerError("a transaction was aborted: the group has moved on", where="memory")
        if any(len(sent.key or b"") + len(sent.value or b"") > self._max_record_bytes for sent in write.records):
            return RecordRefused("a record was refused: it is too large", where="memory")
        return None

    def _abort(self, write: Write, error: BrokerError) -> None:
        write.open, write.error = False, error
        if write in self.open:
            self.open.remove(write)


def _fenced() -> Fenced:
    return Fenced("another worker has this slot", where="memory")
