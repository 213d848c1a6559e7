"""Lists of the last events, read off a log instead of folded: at any moment a list is a stretch of its entity's log.

So a moment costs eight bytes, where its list has hundreds, and a replay need not fold lists. What is taken is to the
bit what the read-out of the folded state gives (tests/segments/history/test_readings.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Bytes, Floats, Ints, Places
from forebay.segments.history.replay import entries_before
from forebay.segments.history.sidelog import SideLog
from forebay.segments.state.kept import CHUNK, Int32s
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader


@dataclass(frozen=True)
class ListTable:
    """What one segment's list has of each event that it counts, k in all, by entity, time and id: columns as in
    ReadLists, and `time` int64 [k] (ms). Entity e has those from `starts[e]` to before `starts[e + 1]`."""

    size: int
    bits: Bytes
    numbers: Floats
    items: Int32s
    time: Ints
    entity: Ints
    starts: Ints
    binary: Bools
    age: int | None  # the column that only a moment decides

    @classmethod
    def of(cls, reader: SegmentReader, layout: Layout, log: SideLog) -> ListTable:
        """Of the behaviours of `log`. A segment without a list has an empty one."""
        width, binary = reader.sequence_width, reader.binary_columns
        places = np.zeros(0, dtype=np.int64)
        columns: Ints = np.zeros(0, dtype=np.int64)
        if reader.listed is not None:
            feature, block = reader.listed
            named = dict(zip(layout.event_columns, log.behaviours.matrix.T, strict=True))
            match = np.ones(len(log.behaviours), dtype=bool) if feature.where is None else feature.where(named)
            places = np.flatnonzero(match)
            columns = np.array([layout.event_columns.index(c) for c in block.columns], dtype=np.int64)
        bits = np.zeros((len(places), int(binary.sum())), dtype=np.uint8)
        numbers = np.zeros((len(places), width - bits.shape[1]), dtype=np.float32)
        items = np.zeros(len(places), dtype=np.int32)
        for start in range(0, len(places), 16 * CHUNK):
            at = slice(start, start + 16 * CHUNK)
            sequence, items[at] = reader.entries(log.behaviours.matrix[places[at]][:, columns])
            bits[at], numbers[at] = sequence[:, binary], sequence[:, ~binary]
        entity, time = log.at[places], log.behaviours.times[places]
        starts = np.searchsorted(entity, np.arange(len(log.entities) + 1))
        return cls(reader.list_size, bits, numbers, items, time, entity, starts, binary, reader.age_column)

    def at(self, rows: Ints, times: Ints) -> LogLists:
        """The lists of entities `rows` int64 [n] (-1: none) strictly before `times` int64 [n] (ms)."""
        known = rows >= 0
        row = np.where(known, rows, 0)
        if not len(self.time):
            return LogLists(self, np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32))
        ends = entries_before(self.entity, self.time, row, times)
        length = np.where(known, np.minimum(ends - self.starts[row], self.size), 0)
        return LogLists(self, ends.astype(np.int32), length.astype(np.int32))


@dataclass(frozen=True)
class LogLists:
    """The lists of n moments, as Lists: each is the `length` int32 [n] entries of `table` before `ends` int32 [n]."""

    table: ListTable
    ends: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]

    def take(self, index: slice | Places) -> tuple[Floats, Ints, Ints]:
        """See Lists."""
        table = self.table
        ends, length = self.ends[index].astype(np.int64), self.length[index].astype(np.int64)
        count, size = len(ends), table.size
        sequence = np.zeros((count, size, len(table.binary)), dtype=np.float32)
        items = np.zeros((count, size), dtype=np.int64)
        there = np.arange(size) < length[:, None]
        entry = (ends - length)[:, None] + np.arange(size)
        used = entry[there]
        if len(used):
            found = np.empty((len(used), len(table.binary)), dtype=np.float32)
            found[:, table.binary], found[:, ~table.binary] = table.bits[used], table.numbers[used]
            if table.age is not None:
                newest = np.repeat(table.time[np.maximum(ends - 1, 0)], length)
                found[:, table.age] = np.log1p((newest - table.time[used]) / 1000.0)
            sequence[there], items[there] = found, table.items[used]
        return sequence, items, length

    def subset(self, index: Places) -> LogLists:
        """See Lists."""
        return LogLists(self.table, self.ends[index], self.length[index])
