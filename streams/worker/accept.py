"""Step 1: records into events, or dead letters. Decided from the records alone: no state is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forebay.errors import EventError
from forebay.events import Behaviour, Event, Interaction, ItemUpdate, Tick, UserProfile, check, decode, entity_of
from forebay.segments.spec import Side, Spec
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.stretch import Stretch, stretches
from forebay.streams.deadletters import DeadLetter
from forebay.streams.routing import partitions_of
from forebay.streams.worker.batch import PartitionBatch

EVER = 1 << 62  # ms


@dataclass(frozen=True)
class Accepted:
    """Records of one partition, accepted or refused. `events` and their `append_times` (ms) are in order of the log,
    and `stretches` are what the fold takes of them. All below `offset` is in it, `records` of them; `newest_append`
    (ms) is the newest record's, the refused ones' included."""

    partition: int
    events: Sequence[Event]
    append_times: Sequence[int]
    stretches: Sequence[Stretch]
    dead_letters: Sequence[DeadLetter]
    records: int
    offset: int
    newest_append: int


class Acceptor:
    """Accepts the records of one side's source topic."""

    def __init__(self, spec: Spec, side: Side, topic: str, partitions: int, *, history: bool = False) -> None:
        """`topic` has so many partitions. With `history`, events are not judged late: backfill's are, by nature."""
        self._side, self._topic, self._count = side, topic, partitions
        self._coder = ColumnCoder(spec, side)
        self._future_after_ms = spec.events.future_after_ms
        self._late_after_ms = EVER if history else spec.events.late_after_ms
        self._kinds = (Behaviour, UserProfile) if side == "user" else (Interaction, ItemUpdate)

    def warm(self) -> None:
        """Compile what `accept` runs."""
        partitions_of([b"warm"], self._count)

    def accept(self, batch: PartitionBatch) -> Accepted:
        """The events in the records of a batch, which has at least one."""
        events: list[Event] = []
        appended: list[int] = []
        letters: list[DeadLetter] = []
        homes = partitions_of([key or b"" for key in batch.keys], self._count).tolist()
        for key, value, offset, append, home in zip(
            batch.keys, batch.values, batch.offsets, batch.append_times, homes, strict=True
        ):
            try:
                events.append(self._event(batch.partition, key, value, offset, append, home))
                appended.append(append)
            except EventError as error:
                letters.append(
                    DeadLetter.of(
                        error, key=key, value=value, topic=self._topic, partition=batch.partition, offset=offset,
                        append_time=append, processor=self._side,
                    )
                )  # fmt: skip
        return Accepted(
            batch.partition, events, appended, stretches(self._coder, events), letters,
            len(batch.offsets), batch.offsets[-1] + 1, max(batch.append_times),
        )  # fmt: skip

    def _event(
        self, partition: int, key: bytes | None, value: bytes | None, offset: int, append: int, home: int
    ) -> Event:
        """The event in a record, with an id and a time, or an EventError with the reason code of its dead letter."""
        if value is None:
            raise EventError("empty", "a record without a value")
        event = decode(value)
        check(event)
        if isinstance(event, Tick):
            if event.time > append + self._future_after_ms:
                raise EventError("future", f"a tick {event.time - append} ms ahead of the log")
            return event
        if not isinstance(event, self._kinds):
            raise EventError("wrong_topic", f"a {event.__struct_config__.tag} on {self._topic}")
        if key != entity_of(event).encode():
            raise EventError("misrouted", "the key is not the entity's id")
        if home != partition:
            raise EventError("misrouted", f"partition {partition} is not the murmur2 partition of the key")
        if not isinstance(event, Interaction):
            event = self._completed(event, partition, offset, append)
        assert event.time is not None
        if event.time > append + self._future_after_ms:
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
        identity = event.id if event.id is not None else f"{self._topic}-{partition}-{offset}"
        moment = event.time if event.time is not None else append
        match event:
            case Behaviour():
                return Behaviour(
                    event.user, event.item, event.action, event.value, moment, identity, event.item_attributes,
                    event.attributes,
                )  # fmt: skip
            case UserProfile():
                return UserProfile(event.user, event.attributes, moment, identity)
            case ItemUpdate():
                return ItemUpdate(event.item, event.attributes, moment, identity)
