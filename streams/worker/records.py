"""What a batch puts into the log, as records: one place for every worker and transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from forebay.events import Tick, encode
from forebay.segments.spec import Side
from forebay.store.codec import HEARTBEAT_KEY, pack_heartbeat
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import TICK_KEY, Outcome


class Record(NamedTuple):
    """One record on its way. `partition` -1 is the murmur2 partition of the key."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def records_of(
    outcome: Outcome, ticks: Mapping[int, int], topics: Topics, generation: str, side: Side, *, interactions: bool
) -> list[Record]:
    """The vectors, heartbeats, interactions and dead letters of `outcome`, and a tick (ms) for each partition of
    `ticks`. `interactions` False leaves the item side untold."""
    vectors, source = topics.vectors(generation, side), topics.source(side)
    return [
        *(Record(vectors, partition, key, value) for partition, key, value in outcome.vectors),
        *(Record(vectors, p, HEARTBEAT_KEY, pack_heartbeat(as_of)) for p, as_of in outcome.watermarks.items()),
        *(Record(topics.item_updates, -1, key, value) for key, value in outcome.interactions if interactions),
        *(Record(topics.dead_letters, -1, *letter.to_record()) for letter in outcome.dead_letters),
        *(Record(source, partition, TICK_KEY, encode(Tick(moment))) for partition, moment in ticks.items()),
    ]
