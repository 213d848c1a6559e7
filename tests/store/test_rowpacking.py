"""Rows that the kernel packs are, byte for byte, those that a StoredRow is packed to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.grown import grown
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow
from forebay.store.rowpacking import packed_rows

CODEC = RowCodec("user", (SlotSpec("one", 5, 7), SlotSpec("two", 32, 1 << 63)))
META = PartitionMeta("events.user", 0, "topic-1", 1, "layout", 3)


def test_packed_rows_are_what_a_stored_row_is_packed_to(tmp_path: Path) -> None:
    """Empty rows, full ones, negative numbers, and numbers that end in any byte; in an order of their own."""
    random = np.random.default_rng(0)
    states = random.integers(-(1 << 62), 1 << 62, (200, 9)) >> random.integers(0, 63, (200, 9))
    for n, row in enumerate(states):
        row[n % 10 :] = 0
    states[11], states[12], states[13, 8], states[14, 8] = 0, -1, 1 << 56, -(1 << 63)
    vectors = CODEC.empty(200)
    vectors["segments"]["two"]["vector"] = random.integers(-127, 128, (200, 32))
    at = random.permutation(200)[:150]
    names = [b"%d" % n for n in at]
    with PartitionStore.open(tmp_path / "store", create=True) as store:
        store.write(meta=META, packed=list(zip(names, packed_rows(states, vectors, at), strict=True)))
        found = store.get(names)
        rows = [StoredRow(states[n].tobytes().rstrip(b"\0"), vectors[n].tobytes()) for n in at]
        assert found == rows
        data = store._rocks.get([b"e" + name for name in names])
        store.write(meta=META, puts=list(zip(names, rows, strict=True)))
        assert store._rocks.get([b"e" + name for name in names]) == data
    assert packed_rows(states, vectors, at[:0]) == []


def test_what_grows_keeps_its_numbers_and_has_zeros_behind_them() -> None:
    """Whether there was room behind it or not: four times as many fit before anything is copied."""
    array = np.arange(6, dtype=np.int64).reshape(3, 2)
    moved = 0
    for _ in range(6):
        more = grown(array, len(array))
        assert (more[: len(array)] == array).all() and not more[len(array) :].any()
        assert more.dtype == array.dtype and more.shape == (2 * len(array), 2)
        moved += not np.shares_memory(more, array)
        array = more
    assert moved == 2
