"""Read-outs of many entities, to be taken a batch at a time: what is nought or one in a list is kept as a byte.

Most columns of a list are members of a set or a category. As float32 they are most of what training holds in memory; as
bytes they come back the same to the bit. Rows are read in chunks, so that nothing of the size of the whole is made on
the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Bytes, Floats, Ints, Places
from forebay.segments.state.readout import Inputs, SegmentReader

CHUNK = 4096  # rows read at a time: some tens of megabytes on the way, and whole canonical batches


@dataclass(frozen=True)
class Kept:
    """One segment's Inputs of n entities. `dense` float32 [n, dense width]; `bits` uint8 and `numbers` float32 [n, list
    size, …] hold the columns of the sequence where `binary` bool [sequence width] is True, and the others; `items`
    int32 [n, list size], `length` int32 [n] and `own` int32 [n] as in Inputs."""

    dense: Floats
    bits: Bytes
    numbers: Floats
    items: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    own: npt.NDArray[np.int32]
    binary: Bools

    def __len__(self) -> int:
        return len(self.own)

    @classmethod
    def read(cls, reader: SegmentReader, rows: Ints, hashes: Ints) -> Kept:
        """What `reader` reads of state rows int64 [n, width] whose entities have the hashed ids int64 [n]."""
        count, size, binary = len(rows), reader.list_size, reader.binary_columns
        found = cls(
            dense=np.empty((count, reader.dense_width), dtype=np.float32),
            bits=np.empty((count, size, int(binary.sum())), dtype=np.uint8),
            numbers=np.empty((count, size, int((~binary).sum())), dtype=np.float32),
            items=np.empty((count, size), dtype=np.int32),
            length=np.empty(count, dtype=np.int32),
            own=np.empty(count, dtype=np.int32),
            binary=binary,
        )
        for start in range(0, count, CHUNK):
            at = slice(start, start + CHUNK)
            part = reader.read(rows[at], hashes[at])
            found.dense[at], found.items[at], found.length[at], found.own[at] = (
                part.dense, part.items, part.length, part.own,
            )  # fmt: skip
            found.bits[at], found.numbers[at] = part.sequence[:, :, binary], part.sequence[:, :, ~binary]
        return found

    def take(self, index: slice | Places) -> Inputs:
        """The entities at `index`, as they were read."""
        bits, numbers = self.bits[index], self.numbers[index]
        sequence = np.empty((*bits.shape[:2], len(self.binary)), dtype=np.float32)
        sequence[:, :, self.binary] = bits
        sequence[:, :, ~self.binary] = numbers
        whole = (a[index].astype(np.int64) for a in (self.items, self.length, self.own))
        return Inputs(self.dense[index], sequence, *whole)

    def subset(self, index: Places) -> Kept:
        """The entities at `index`, kept."""
        return Kept(
            self.dense[index], self.bits[index], self.numbers[index], self.items[index], self.length[index],
            self.own[index], self.binary,
        )  # fmt: skip
