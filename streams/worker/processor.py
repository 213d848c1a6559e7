"""The Processor: one side's events in, vectors out. No Kafka in it.

A Host polls, and calls for each batch, in this order and with these numbers in metrics, tests and logs:

    1 decode     `apply`: bad events become dead letters
    2 fold       `apply`: into EntityState, collecting dirty (entity, segment) pairs: ten clicks are one encode
    3 encode     `apply`: each segment's dirty rows, in canonical batches
    4 transact   the Host: vectors, interactions, dead letters and source offsets in one transaction
    5 store      `flush`, after the commit, every few batches: the store may lag the group, never lead it

A crash before the commit of 4 leaves nothing; between 4 and 5 the next owner folds the gap silently (`apply` with
aloud=False), which leaves what it touched dirty, to be emitted again by the next aloud batch. Emitting a vector twice
is harmless; interactions and dead letters are emitted aloud only, inside transactions, so each exactly once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from forebay.arrays import Bools, Int8s, Ints
from forebay.errors import EventError
from forebay.events import (
    Behaviour,
    Event,
    Interaction,
    ItemUpdate,
    Tick,
    UserProfile,
    check,
    decode,
    encode,
    entity_of,
)
from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import Side
from forebay.segments.state.columns import ColumnCoder, Columns
from forebay.segments.state.fold import DEEP, DUPLICATE, Fold
from forebay.store.codec import DEFAULT, HELD, codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta
from forebay.streams.deadletters import DeadLetter
from forebay.streams.routing import partitions_of
from forebay.streams.worker.undeclared import Counts, Undeclared
from forebay.telemetry import emit

Message: TypeAlias = tuple[int, bytes, bytes | None]  # source partition, key, value (None: a tombstone)

DUPLICATE_MARGIN_MS = 5 * 60_000


@dataclass(frozen=True)
class PartitionBatch:
    """Records of one source partition in order of offset; `append_times` are the log's (ms)."""

    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    offsets: Sequence[int]
    append_times: Sequence[int]


@dataclass
class Outcome:
    """What one batch gives to the log. `watermarks`: for each partition the append time (ms) up to which it is applied;
    `offsets`: the next offset to read."""

    vectors: list[Message] = field(default_factory=list)
    interactions: list[tuple[bytes, bytes]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    watermarks: dict[int, int] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    events: int = 0
    accepted: int = 0
    undeclared: Counts = field(default_factory=Counter)


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
        self._late_after_ms = 1 << 62 if history else self.rules.late_after_ms
        self._coder = ColumnCoder(bundle.spec, side)
        self._undeclared = Undeclared(bundle.spec)
        self._declared = frozenset(a.name for a in bundle.spec.event_attributes)
        self._encoders = SideEncoders(bundle, side)
        self._segments = bundle.spec.side(side)
        # A segment that reads no state (an id alone) is never "missing": it has nothing to wait for.
        self._stateful = [any(f.kind != "id" for f in s.features) for s in self._segments]
        self._defaults = [self._default(p) for p in range(len(self._segments))]

    def warm(self) -> None:
        """Compile what a batch runs, before the first one waits for it. The Host calls this before it joins its
        group."""
        self._fold.warm()
        partitions_of([b"warm"], self.count)

    def open(self, partition: int, topic_id: str, offset: int, *, create: bool = True) -> OwnedPartition:
        """Take over a partition: its store as it is, or with `create` an empty one that starts at `offset`. Errors as
        in OwnedPartition.open."""
        fresh = PartitionMeta(self.topic, partition, topic_id, self.count, self.layout.digest, offset)
        path = self.folder / f"{self.side}-{partition}"
        retires = self.side == "user" and self.rules.retire_users_after_ms > 0
        self.partitions[partition] = OwnedPartition.open(
            path, self.layout, self.codec, fresh, whole=retires, create=create
        )
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

        With `aloud=False` the log has seen this part's outcome before: state moves and stays dirty, nothing is emitted.
        """
        outcome = Outcome()
        started = time.perf_counter()
        for batch in batches:
            self._fold_batch(self.partitions[batch.partition], batch, outcome)
        folded = time.perf_counter()
        if not aloud:
            return Outcome(watermarks=outcome.watermarks, offsets=outcome.offsets, events=outcome.events)
        for number, owned in self.partitions.items():
            self._encode_dirty(number, owned, outcome)
        for letter in outcome.dead_letters:
            emit("dead_letter", side=self.side, reason=letter.reason)
        for (kind, name), events in outcome.undeclared.items():
            emit("undeclared", side=self.side, kind=kind, name=name, events=events)
        emit("step", number=2, name="fold", side=self.side, seconds=folded - started, events=outcome.events)
        emit(
            "step", number=3, name="encode", side=self.side, seconds=time.perf_counter() - folded, events=outcome.events
        )
        return outcome

    # -- step 1

    def _fold_batch(self, owned: OwnedPartition, batch: PartitionBatch, outcome: Outcome) -> None:
        behaviours: list[Behaviour | Interaction] = []
        updates: list[UserProfile | ItemUpdate] = []
        appended: list[int] = []
        for key, value, offset, append in zip(batch.keys, batch.values, batch.offsets, batch.append_times, strict=True):
            try:
                event = self._accept(owned, batch.partition, key, value, offset, append)
            except EventError as error:
                outcome.dead_letters.append(
                    DeadLetter.of(
                        error, key=key, value=value, topic=self.topic, partition=batch.partition, offset=offset,
                        append_time=append, processor=self.side,
                    )
                )  # fmt: skip
                continue
            if isinstance(event, Behaviour | Interaction):
                behaviours.append(event)
                appended.append(append)
            elif isinstance(event, Tick):
                # In its place in the log: whether an idle user retires before its next event must not depend on batch
                # cuts.
                self._fold_events(owned, behaviours, appended, updates, outcome)
                behaviours, updates, appended = [], [], []
                self._tick(batch.partition, owned, event.time, outcome)
            else:
                updates.append(event)
        self._fold_events(owned, behaviours, appended, updates, outcome)
        if batch.offsets:
            owned.advance(batch.offsets[-1] + 1, max(batch.append_times))
            outcome.offsets[batch.partition] = owned.meta.offset
            outcome.watermarks[batch.partition] = owned.meta.newest_append
        outcome.events += len(batch.offsets)

    def _accept(
        self, owned: OwnedPartition, partition: int, key: bytes | None, value: bytes | None, offset: int, append: int
    ) -> Event:
        """The event in a record, with an id and a time, or an EventError with the reason code of its dead letter."""
        if value is None:
            raise EventError("empty", "a record without a value")
        event = decode(value)
        check(event)
        if isinstance(event, Tick):
            if event.time > append + self.rules.future_after_ms:
                raise EventError("future", f"a tick {event.time - append} ms ahead of the log")
            return event
        if not isinstance(event, (Behaviour, UserProfile) if self.side == "user" else (Interaction, ItemUpdate)):
            raise EventError("wrong_topic", f"a {event.__struct_config__.tag} on {self.topic}")
        entity = entity_of(event)
        if key != entity.encode():
            raise EventError("misrouted", "the key is not the entity's id")
        if not owned.is_known(entity) and int(partitions_of([key], self.count)[0]) != partition:
            raise EventError("misrouted", f"partition {partition} is not the murmur2 partition of the key")
        if not isinstance(event, Interaction):
            event = self._completed(event, partition, offset, append)
        assert event.time is not None
        if event.time > append + self.rules.future_after_ms:
            raise EventError("future", f"{event.time - append} ms ahead of the log")
        # Attribute updates of any age are folded: the newest wins whenever it comes. An interaction was judged as a
        # behaviour.
        if isinstance(event, Behaviour) and append - event.time > self._late_after_ms:
            raise EventError("late", f"{append - event.time} ms behind the log, past {self._late_after_ms}")
        return event

    def _completed(
        self, event: Behaviour | UserProfile | ItemUpdate, partition: int, offset: int, append: int
    ) -> Behaviour | UserProfile | ItemUpdate:
        if event.id is not None and event.time is not None:
            return event
        # A foreign producer's event: its place in the log identifies it, so a re-send is another event.
        identity = event.id if event.id is not None else f"{self.topic}-{partition}-{offset}"
        moment = event.time if event.time is not None else append
        match event:
            case Behaviour():
                return Behaviour(
                    event.user, event.item, event.action, event.value, moment, identity, event.item_attributes,
                    event.attributes
                )  # fmt: skip
            case UserProfile():
                return UserProfile(event.user, event.attributes, moment, identity)
            case ItemUpdate():
                return ItemUpdate(event.item, event.attributes, moment, identity)

    # -- step 2

    def _fold_events(
        self,
        owned: OwnedPartition,
        behaviours: list[Behaviour | Interaction],
        appended: list[int],
        updates: list[UserProfile | ItemUpdate],
        outcome: Outcome,
    ) -> None:
        if behaviours:
            columns = self._coder.behaviours(behaviours)
            at = owned.rows_of(columns.entities)
            if self.layout.identity is not None:
                order = Fold.order(at, columns)
                order = order[self._is_new(owned, at[order], columns.take(order))]
            else:  # interactions are in the log once; two users' ones may share (item, time, id)
                order = np.lexsort((columns.ids, columns.times, at))
            at, columns = at[order], columns.take(order)
            left = self._fold.behaviours(owned.rows, at, columns, owned.meta.clock, owned.dirty)
            gone = np.flatnonzero(left[:, 0])
            owned.spill(left[gone, 0], owned.hashes[at[gone]], left[gone, 1])
            owned.touched(at)
            outcome.accepted += len(order)
            if self.side == "user":
                # In order of arrival: what the item side reads must not depend on how a batch was sorted.
                arrived = np.sort(order).tolist()
                outcome.undeclared.update(self._undeclared.count(behaviours[place] for place in arrived))
                for place in arrived:
                    outcome.interactions.append(self._interaction(behaviours[place], appended[place]))
        if updates:
            columns = self._coder.updates(updates)
            at = owned.rows_of(columns.entities)
            self._fold.updates(owned.rows, at, columns, owned.dirty)
            owned.touched(at)
            outcome.accepted += len(updates)
            outcome.undeclared.update(self._undeclared.count(updates))

    def _interaction(self, event: Behaviour | Interaction, append: int) -> tuple[bytes, bytes]:
        assert event.time is not None and event.id is not None
        # The declared ones, whether this spec's item side reads them or not: the next generation's reads this log too.
        own = {n: v for n, v in event.attributes.items() if n in self._declared} if event.attributes else {}
        slim = Interaction(event.item, event.user, event.action, event.value, event.time, event.id, append, own)
        return event.item.encode(), encode(slim)

    def _is_new(self, owned: OwnedPartition, at: Ints, events: Columns) -> Bools:
        verdict = self._fold.classify(owned.rows, at, events)
        new = verdict != DUPLICATE
        deep = np.flatnonzero(verdict == DEEP)
        if len(deep):
            new[deep] = ~owned.seen(events.times[deep], owned.hashes[at[deep]], events.ids[deep])
        return new

    def _tick(self, number: int, owned: OwnedPartition, clock: int, outcome: Outcome) -> None:
        owned.tick(self._fold, clock)
        if self.side == "user" and self.rules.retire_users_after_ms:
            for row in owned.idle(clock - self.rules.retire_users_after_ms):
                outcome.vectors.append((number, owned.delete(row).encode(), None))

    # -- step 3

    def _encode_dirty(self, number: int, owned: OwnedPartition, outcome: Outcome) -> None:
        dirty = owned.dirty[: len(owned)]
        rows = np.flatnonzero(dirty)
        if not len(rows):
            return
        slots = owned.vectors["segments"]
        as_of = owned.meta.newest_append
        waiting = [(dirty[rows] >> place & 1).astype(bool) for place in range(len(self._segments))]
        jobs = [(p, owned.rows[rows[w]], owned.hashes[rows[w]]) for p, w in enumerate(waiting) if w.any()]
        done = {job[0]: encoded for job, encoded in zip(jobs, self._encoders.encode_each(jobs), strict=True)}
        for place, segment in enumerate(self._segments):
            slot = slots[segment.name]
            waits = waiting[place]
            at = rows[waits]
            good = at
            if len(at):
                encoded = done[place]
                good = at[encoded.finite]
                slot["vector"][good] = encoded.vectors[encoded.finite]
                slot["scale"][good] = encoded.scale[encoded.finite]
                slot["last_event"][good] = encoded.newest[encoded.finite]
                missing = self._stateful[place] & (encoded.newest[encoded.finite] == 0)
                slot["flags"][good] = np.where(missing, DEFAULT, 0)
                self._hold(place, at[~encoded.finite], owned)
            # Up to `as_of` this pair has been applied, whether an event touched it or not; a held one stays where it
            # was.
            current = np.concatenate([good, rows[~waits]])
            current = current[slot["flags"][current] & HELD == 0]
            slot["as_of"][current] = as_of
        owned.dirty[rows] = 0
        owned.touched(rows)
        ids = [owned.ids[r] for r in rows.tolist()]
        values = self.codec.pack(owned.vectors[rows], ids)
        outcome.vectors.extend((number, e.encode(), v) for e, v in zip(ids, values, strict=True))
        outcome.watermarks.setdefault(number, as_of)

    def _hold(self, place: int, rows: Ints, owned: OwnedPartition) -> None:
        """The encoder gave no finite vector: the last good one stays, its as_of with it; the default where there is
        none."""
        if not len(rows):
            return
        segment = self._segments[place]
        emit("held", side=self.side, segment=segment.name, rows=len(rows))
        slot = owned.vectors["segments"][segment.name]
        never = rows[slot["as_of"][rows] == 0]
        codes, scale = self._defaults[place]
        slot["vector"][never], slot["scale"][never] = codes, scale
        slot["flags"][never] = DEFAULT
        slot["flags"][rows] |= HELD

    def _default(self, place: int) -> tuple[Int8s, np.float32]:
        empty = self._encoders.encode(place, np.zeros((1, self.layout.width), np.int64), np.zeros(1, np.int64))
        return empty.vectors[0], empty.scale[0]
