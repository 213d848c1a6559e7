"""Rows as the store has them, for memory: values in, values out. What a flush writes is packed in rowpacking.py.

An OwnedPartition unpacks what it reads. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.store.codec import RowCodec, Rows
from forebay.store.partitionstore import StoredRow


@dataclass(frozen=True)
class Unpacked:
    """Of stored rows that were there: `states` int64 [n, width]; bool [n], whose vectors are those of the encoders in
    use, and these `vectors`, one for each of those."""

    states: Ints
    current: Bools
    vectors: Rows


def unpack(stored: Sequence[StoredRow], width: int, codec: RowCodec) -> Unpacked:
    """Of rows that the store had. Rows of other encoders over the same state have no vector that is right."""
    states = b"".join(row.state.ljust(8 * width, b"\0") for row in stored)
    fits = np.array([len(row.vectors) == codec.dtype.itemsize for row in stored], np.bool_)
    vectors = np.frombuffer(b"".join(r.vectors for r, fit in zip(stored, fits, strict=True) if fit), codec.dtype)
    same = (codec.column(vectors, "encoder") == codec.column(codec.empty(1), "encoder")).all(axis=1)
    current = np.zeros(len(stored), np.bool_)
    current[np.flatnonzero(fits)[same]] = True
    return Unpacked(np.frombuffer(states, np.int64).reshape(len(stored), width), current, vectors[same])
