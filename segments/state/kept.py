"""Read-outs of many entities, to be taken a batch at a time. Dense features are kept as they are read, lists apart from
them: in training a list is a stretch of its entity's own log, and need not be kept for every moment of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Bytes, Floats, Ints, Places
from forebay.segments.state.readout import Inputs, SegmentReader

CHUNK = 4096  # rows read at a time: some tens of megabytes on the way, and whole canonical batches
Int32s = npt.NDArray[np.int32]


class Lists(Protocol):
    """The lists of n entities."""

    def take(self, index: slice | Places) -> tuple[Floats, Ints, Ints]:
        """`sequence` float32 [m, list size, width], `items` int64 [m, list size] and `length` int64 [m] of those at
        `index`, as in Inputs."""

    def subset(self, index: Places) -> Lists:
        """Those at `index`, kept."""


@dataclass(frozen=True)
class Kept:
    """One segment's Inputs of n entities: `dense` float32 [n, dense width], `own` int32 [n] as in Inputs, and
    `lists`."""

    dense: Floats
    own: Int32s
    lists: Lists

    def __len__(self) -> int:
        return len(self.own)

    @classmethod
    def read(cls, reader: SegmentReader, rows: Ints, hashes: Ints) -> Kept:
        """What `reader` reads of state rows int64 [n, width] whose entities have the hashed ids int64 [n]."""
        count, size, binary = len(rows), reader.list_size, reader.binary_columns
        dense = np.empty((count, reader.dense_width), dtype=np.float32)
        own = np.empty(count, dtype=np.int32)
        lists = ReadLists(
            bits=np.empty((count, size, int(binary.sum())), dtype=np.uint8),
            numbers=np.empty((count, size, int((~binary).sum())), dtype=np.float32),
            items=np.empty((count, size), dtype=np.int32),
            length=np.empty(count, dtype=np.int32),
            binary=binary,
        )
        for start in range(0, count, CHUNK):
            at = slice(start, start + CHUNK)
            part = reader.read(rows[at], hashes[at])
            dense[at], own[at], lists.items[at], lists.length[at] = part.dense, part.own, part.items, part.length
            lists.bits[at], lists.numbers[at] = part.sequence[:, :, binary], part.sequence[:, :, ~binary]
        return cls(dense, own, lists)

    def take(self, index: slice | Places) -> Inputs:
        """The entities at `index`, as they were read."""
        return Inputs(self.dense[index], *self.lists.take(index), self.own[index].astype(np.int64))

    def subset(self, index: Places) -> Kept:
        """The entities at `index`, kept."""
        return Kept(self.dense[index], self.own[index], self.lists.subset(index))

    def chunks(self) -> Iterator[Inputs]:
        """All of them in order, some at a time."""
        for start in range(0, len(self), CHUNK):
            yield self.take(slice(start, start + CHUNK))


@dataclass(frozen=True)
class ReadLists:
    """Lists as they were read. Most columns are members of a set or a category: `bits` uint8 and `numbers` float32
    [n, list size, …] hold the columns of the sequence where `binary` bool [width] is True, and the others; as float32
    they would be most of what an evaluation holds in memory, and as bytes they come back the same to the bit. `items`
    int32 [n, list size] and `length` int32 [n] as in Inputs."""

    bits: Bytes
    numbers: Floats
    items: Int32s
    length: Int32s
    binary: Bools

    def take(self, index: slice | Places) -> tuple[Floats, Ints, Ints]:
        """See Lists."""
        bits = self.bits[index]
        sequence = np.empty((*bits.shape[:2], len(self.binary)), dtype=np.float32)
        sequence[:, :, self.binary] = bits
        sequence[:, :, ~self.binary] = self.numbers[index]
        return sequence, self.items[index].astype(np.int64), self.length[index].astype(np.int64)

    def subset(self, index: Places) -> ReadLists:
        """See Lists."""
        return ReadLists(
            self.bits[index], self.numbers[index], self.items[index], self.length[index], self.binary
        )  # fmt: skip
