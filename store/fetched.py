"""A Reading of one row that is in no table: it was read from the store for one answer."""

from __future__ import annotations

from forebay.arrays import Ints
from forebay.store.codec import RowCodec
from forebay.store.reading import Lacking, LockedReading
from forebay.store.table import SegmentTable
from forebay.store.vectors import Part


def reading_of(codec: RowCodec, lacking: Lacking, part: Part | None, marks: Ints, hashes: Ints) -> LockedReading:
    """Of the rows in `part`, under the watermarks `marks` int64 [partitions] that were taken before they were read:
    taken after it, a mark could be one that came with a later version of a row."""
    table = SegmentTable(codec, partitions=len(marks), capacity=16)
    table.watermarks[:] = marks
    if part is not None:
        rows, ids = codec.unpack(part.records)
        table.upsert(ids, rows, part.partitions.tolist())
    return LockedReading(table, lacking, None, hashes)
