"""A clean log by hand: what an Intake writes of events, as a Processor is given it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forebay.events import Event, Tick
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.spec import Side
from forebay.streams.routing import partitions_of
from forebay.streams.worker.batch import PartitionBatch

NOW = 1_790_000_000_000
COUNT = 4  # partitions


@dataclass(frozen=True)
class Rec:
    """One record of a clean log."""

    partition: int
    header: bytes
    value: bytes | None
    offset: int
    keys: frozenset[bytes]  # whose events are in it; none: a tick


def log_of(events: Iterable[Event], side: Side = "user", *, count: int = COUNT, size: int = 1) -> list[Rec]:
    """Events as an Intake writes them, in blocks of up to `size`, each of one partition; a tick goes to all of them."""
    ends: Counter[int] = Counter()
    found: list[Rec] = []
    waiting: dict[int, list[Event]] = {}

    def write(partition: int) -> None:
        part = waiting.pop(partition, [])
        if not part:
            return
        block = block_of(part, [NOW] * len(part), range(len(part)), [0] * len(part), ("s/0",))
        keys = frozenset(str(getattr(e, side)).encode() for e in part if not isinstance(e, Tick))
        for header, value in block.encode():
            found.append(Rec(partition, header, value, ends[partition], keys))
            ends[partition] += 1

    for event in events:
        key = None if isinstance(event, Tick) else str(getattr(event, side)).encode()
        for partition in range(count) if key is None else partitions_of([key], count).tolist():
            waiting.setdefault(partition, []).append(event)
            if len(waiting[partition]) >= size:
                write(partition)
    for partition in list(waiting):
        write(partition)
    return found


def batches_of(records: Sequence[Rec]) -> list[PartitionBatch]:
    by_partition: dict[int, list[Rec]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    return [
        PartitionBatch(p, [None] * len(part), [r.value for r in part], [r.offset for r in part], [NOW] * len(part),
            [((HEADER, r.header),) for r in part])
        for p, part in by_partition.items()
    ]  # fmt: skip
