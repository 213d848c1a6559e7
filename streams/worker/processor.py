"""The Processor: one side's events in, vectors out. No Kafka in it.

A Worker (protocol.py) polls, and calls for each batch, in this order and with these numbers in metrics, tests and logs:

    1 accept     `apply`: records become events, bad ones dead letters (accept.py)
    2 fold       `apply`: into EntityState, collecting pending (entity, segment) pairs: ten clicks are one encode
    3 encode     `apply`: what is pending in all partitions together, in canonical batches (encode.py)
    4 transact   the Worker: vectors, interactions, dead letters and source offsets in one commit
    5 store      `flush`, after the commit, every few batches: the store may lag the group, never lead it

A crash before the commit of 4 leaves nothing; between 4 and 5 the next owner folds the gap silently (`apply` with
aloud=False), which leaves what it touched pending, to be emitted again by the next aloud batch. Emitting a vector twice
is harmless; interactions and dead letters are emitted aloud only, inside transactions, so each exactly once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from forebay.events import Behaviour, Event, Interaction, encode
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import Side
from forebay.segments.state.fold import Fold
from forebay.store.codec import codec_of
from forebay.store.ownedpartition import Folded, OwnedPartition
from forebay.store.partitionstore import PartitionMeta
from forebay.streams.worker.accept import Accepted, Acceptor
from forebay.streams.worker.batch import Message, Outcome, PartitionBatch
from forebay.streams.worker.encode import encode_pending
from forebay.streams.worker.undeclared import Undeclared
from forebay.telemetry import emit

DUPLICATE_MARGIN_MS = 5 * 60_000


class Processor:
    """Folds and encodes one side of one bundle, for the partitions it was given. One thread at a time."""

    def __init__(
        self, bundle: Bundle, side: Side, topic: str, partitions: int, folder: Path, *, history: bool = False
    ) -> None:
        """`topic` is the side's source, of `partitions` partitions; stores live in `folder`, one directory each. With
        `history`, events are not judged late: backfill's are, by nature."""
        self.bundle, self.side, self.topic, self.count, self.folder = bundle, side, topic, partitions, folder
        self.layout, self.codec = bundle.layouts[side], codec_of(bundle, side)
        self.rules = bundle.spec.events
        self.partitions: dict[int, OwnedPartition] = {}
        self._fold = Fold(self.layout)
        self._acceptor = Acceptor(bundle.spec, side, topic, partitions, history=history)
        self._undeclared = Undeclared(bundle.spec)
        self._declared = frozenset(a.name for a in bundle.spec.event_attributes)
        self._encoders = SideEncoders(bundle, side)

    def warm(self) -> None:
        """Compile what a batch runs, before the first one waits for it. A Worker calls this before it joins its
        group."""
        self._fold.warm()
        self._acceptor.warm()

    def open(self, partition: int, topic_id: str, offset: int, *, create: bool = True) -> OwnedPartition:
        """Take over a partition: its store as it is, or with `create` an empty one that starts at `offset`. Errors as
        in OwnedPartition.open."""
        fresh = PartitionMeta(self.topic, partition, topic_id, self.count, self.layout.digest, offset)
        self.partitions[partition] = OwnedPartition.open(
            self.folder / f"{self.side}-{partition}", self._fold, self.codec, fresh,
            create=create, retire_after_ms=self.rules.retire_users_after_ms if self.side == "user" else 0,
        )  # fmt: skip
        return self.partitions[partition]

    def has_stores(self) -> bool:
        """Whether the store of any partition of this side is in the folder."""
        return any(self.folder.glob(f"{self.side}-*/CURRENT"))

    def close(self, partition: int) -> None:
        """Let go of a partition without writing."""
        if (owned := self.partitions.pop(partition, None)) is not None:
            owned.close()

    def flush(self) -> None:
        """Step 5 for every owned partition. Only between a commit and the next `apply`."""
        for owned in self.partitions.values():
            owned.flush(self.rules.late_after_ms + DUPLICATE_MARGIN_MS)

    def apply(self, batches: Sequence[PartitionBatch], *, aloud: bool = True) -> Outcome:
        """Steps 1 to 3. After it state and `offsets` are past the batch; if it raises, drop the partitions and open
        them again.

        With `aloud=False` the log has seen this part's outcome before: state moves and stays pending, nothing is
        emitted.
        """
        started = time.perf_counter()
        accepted = [self._acceptor.accept(batch) for batch in batches]
        checked = time.perf_counter()
        folded = [self._folded(part) for part in accepted]
        moved = time.perf_counter()
        watermarks = {part.partition: self.partitions[part.partition].meta.newest_append for part in accepted}
        offsets = {part.partition: part.offset for part in accepted}
        events = sum(part.records for part in accepted)
        if not aloud:
            return Outcome(watermarks=watermarks, offsets=offsets, events=events)
        retired = [
            (part.partition, name, None)
            for part, found in zip(accepted, folded, strict=True)
            for name in itertools.chain.from_iterable(f.retired for f in found)
        ]
        spoken = self._encoded()
        watermarks = {n: self.partitions[n].meta.newest_append for n, _, _ in spoken} | watermarks
        encoded = time.perf_counter()
        counted = [pair for part, found in zip(accepted, folded, strict=True) for pair in _counted(part, found)]
        updated = [part.events[place] for part in accepted for s in part.stretches for place in s.updated.tolist()]
        outcome = Outcome(
            vectors=[*retired, *spoken],
            interactions=[self._interaction(e, at) for e, at in counted if isinstance(e, Behaviour)],
            dead_letters=[letter for part in accepted for letter in part.dead_letters],
            watermarks=watermarks,
            offsets=offsets,
            events=events,
            accepted=len(counted) + len(updated),
            undeclared=self._undeclared.count([*(event for event, _ in counted), *updated]),
        )
        self._tell(outcome, {"accept": checked - started, "fold": moved - checked, "encode": encoded - moved})
        return outcome

    def _folded(self, part: Accepted) -> list[Folded]:
        owned = self.partitions[part.partition]
        found = [owned.fold(stretch) for stretch in part.stretches]
        owned.advance(part.offset, part.newest_append)
        return found

    def _encoded(self) -> list[Message]:
        """Step 3: the records of all rows that waited."""
        pending = {number: waits for number, owned in self.partitions.items() if len(waits := owned.waiting())}
        found = encode_pending(self._encoders, self.partitions, pending)
        return [
            (number, name, value)
            for number, waits in pending.items()
            for name, value in self.partitions[number].put(waits, found[number])
        ]

    def _interaction(self, event: Behaviour, append: int) -> tuple[bytes, bytes]:
        assert event.time is not None and event.id is not None
        # The declared ones, whether this spec's item side reads them or not: the next generation's reads this log too.
        own = {n: v for n, v in event.attributes.items() if n in self._declared} if event.attributes else {}
        slim = Interaction(event.item, event.user, event.action, event.value, event.time, event.id, append, own)
        return event.item.encode(), encode(slim)

    def _tell(self, outcome: Outcome, seconds: Mapping[str, float]) -> None:
        for letter in outcome.dead_letters:
            emit("dead_letter", side=self.side, reason=letter.reason)
        for (kind, name), events in outcome.undeclared.items():
            emit("undeclared", side=self.side, kind=kind, name=name, events=events)
        for number, (name, took) in enumerate(seconds.items(), start=1):
            emit("step", number=number, name=name, side=self.side, seconds=took, events=outcome.events)


def _counted(part: Accepted, found: Sequence[Folded]) -> list[tuple[Event, int]]:
    """The behaviours that were no duplicates, each with its append time. In order of arrival: what the item side reads
    must not depend on how a batch was sorted."""
    places = [p for s, folded in zip(part.stretches, found, strict=True) for p in s.acted[folded.new].tolist()]
    return [(part.events[place], part.append_times[place]) for place in places]
