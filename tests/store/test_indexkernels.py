"""Each kernel of the item index finds what plain numpy finds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.arrays import Bytes, Floats, Ints
from forebay.store import indexkernels
from forebay.store.index import ItemIndex

BOUNDS = np.array([0, 5, 12])


def _plain(scores: Floats, rows: Ints, k: int) -> tuple[list[int], Floats]:
    """The twin of the heap: best first, equal scores in order of row."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order].tolist(), scores[order]


def _allowed(bits: Bytes, rows: Ints) -> np.ndarray:
    if not len(bits):
        return np.ones(len(rows), bool)
    flags = np.unpackbits(bits, bitorder="little").astype(bool)
    return np.array([row < len(flags) and flags[row] for row in rows.tolist()], bool)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 80), k=st.integers(1, 40), filtered=st.booleans())
def test_scans_equal_their_twins(seed: int, n: int, k: int, filtered: bool) -> None:
    rng = np.random.default_rng(seed)
    index = ItemIndex(BOUNDS)
    codes = rng.integers(-3, 4, (n, 12)).astype(np.int8)  # few values: many scores are equal
    scales = rng.integers(1, 3, (n, 2)).astype(np.float32)
    index.upsert(np.arange(n), codes, scales)
    gone = rng.permutation(n)[: n // 4]
    index.remove(gone)
    live = ~np.isin(np.arange(n), gone)
    query = rng.integers(-2, 3, 12).astype(np.float32)
    scores = ((codes * np.repeat(scales, np.diff(BOUNDS), axis=1)) @ query).astype(np.float32)
    bits = rng.integers(0, 256, (n + 7) // 8 - n // 40).astype(np.uint8) if filtered else np.zeros(0, np.uint8)
    may = _allowed(bits, np.arange(n)) if len(bits) or not filtered else np.ones(n, bool)
    memory = index.memory()

    def heap() -> tuple[Floats, Ints]:
        return np.empty(k, np.float32), np.empty(k, np.int64)

    def same(keys: Floats, rows: Ints, size: int, among: Ints) -> None:
        out, found = np.empty(size, np.float32), np.empty(size, np.int64)
        indexkernels.sorted_heap(keys, rows, size, out, found)
        expected, products = _plain(scores[among], among, k)
        assert found.tolist() == expected
        np.testing.assert_array_equal(out, products)

    keys, rows = heap()
    first, last = sorted(rng.integers(0, n + 1, 2).tolist())
    size = indexkernels.scan_all(memory.words, memory.place, first, last, BOUNDS, query, bits, keys, rows, 0)
    numbers = np.arange(first, last)
    same(keys, rows, size, numbers[(live & may)[numbers]])

    keys, rows = heap()
    changes = rng.permutation(n).astype(np.int32)
    changed = int(rng.integers(0, n + 1))
    size = indexkernels.scan_changed(memory.words, memory.place, changes, changed, BOUNDS, query, bits, keys, rows, 0)
    numbers = np.sort(changes[:changed]).astype(np.int64)
    same(keys, rows, size, numbers[(live & may)[numbers]])

    keys, rows = heap()
    order = rng.permutation(n)
    starts = np.concatenate([[0], np.sort(rng.integers(0, n + 1, 3)), [n]])
    since = np.zeros(n, np.int32)
    noted = np.zeros(n, bool)
    entry_of = np.empty(n, np.int32)
    entry_of[order] = np.arange(n)
    again = np.concatenate([changes[:changed], changes[:changed]]).astype(np.int64)
    kept = np.zeros(n, np.int32)
    assert indexkernels.note_changes(again, noted, entry_of, since, kept, 0) == changed
    np.testing.assert_array_equal(kept[:changed], changes[:changed])
    known = int(rng.integers(0, changed + 1))
    lists = rng.permutation(4)[: rng.integers(1, 5)].astype(np.int64)
    size = indexkernels.scan_lists(
        lists, starts, order.astype(np.int32), codes[order], scales[order], BOUNDS, query, since, known, bits, keys,
        rows, 0,
    )  # fmt: skip
    numbers = np.sort(np.concatenate([order[starts[at] : starts[at + 1]] for at in lists]))
    numbers = numbers[~np.isin(numbers, changes[:known]) & may[numbers]]
    same(keys, rows, size, numbers)


def test_segments_that_a_query_has_zeros_for_are_not_scanned() -> None:
    """What is there may be anything: each scan finds what it finds of the other segment alone."""
    rng, n, k = np.random.default_rng(3), 60, 12
    codes, scales = rng.integers(-127, 128, (n, 12)).astype(np.int8), rng.random((n, 2), np.float32)
    query = rng.standard_normal(12, np.float32)
    query[:5] = 0
    index, every, rows = ItemIndex(BOUNDS), np.zeros(0, np.uint8), np.arange(n, dtype=np.int32)
    index.upsert(np.arange(n), codes, scales)
    memory = index.memory()
    expected, products = _plain((codes[:, 5:] @ query[5:]) * scales[:, 1], np.arange(n), k)
    at = 2 * (memory.place.origin + np.arange(n) * memory.place.width) + memory.place.scales
    memory.words.view(np.float32)[at] = scales[:, 0] = np.nan
    keys, heap = np.empty((3, k), np.float32), np.empty((3, k), np.int64)
    sizes = [
        indexkernels.scan_all(memory.words, memory.place, 0, n, BOUNDS, query, every, keys[0], heap[0], 0),
        indexkernels.scan_changed(memory.words, memory.place, rows, n, BOUNDS, query, every, keys[1], heap[1], 0),
        indexkernels.scan_lists(
            np.arange(2), np.array([0, 40, n]), rows, codes, scales, BOUNDS, query, np.zeros(n, np.int32), 0, every,
            keys[2], heap[2], 0,
        ),
    ]  # fmt: skip
    for number, size in enumerate(sizes):
        out, found = np.empty(k, np.float32), np.empty(k, np.int64)
        indexkernels.sorted_heap(keys[number], heap[number], size, out, found)
        assert found.tolist() == expected
        np.testing.assert_allclose(out, products, rtol=1e-5, atol=1e-3)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 50), lists=st.integers(1, 6))
def test_entries_are_placed_list_by_list(seed: int, n: int, lists: int) -> None:
    rng = np.random.default_rng(seed)
    of = rng.integers(-1, lists, n).astype(np.int32)
    counts = np.bincount(of[of >= 0], minlength=lists)
    rows = np.empty(int(counts.sum()), np.int32)
    indexkernels.place_entries(of, np.concatenate([[0], np.cumsum(counts)[:-1]]), rows)
    expected = np.argsort(np.where(of < 0, lists, of), kind="stable")[: len(rows)]
    np.testing.assert_array_equal(rows, expected)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_bits_are_counted_and_taken(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, n).astype(np.uint8)
    flags = np.unpackbits(bits, bitorder="little")
    assert indexkernels.ones_of(bits) == flags.sum()
    rows = rng.integers(-5, 8 * n + 9, 20)
    indexkernels.take_bits(bits, rows)
    flags[rows[(rows >= 0) & (rows < 8 * n)]] = 0
    np.testing.assert_array_equal(np.unpackbits(bits, bitorder="little"), flags)


def test_rows_and_hashes_are_copied_if_they_are_live() -> None:
    index = ItemIndex(BOUNDS)
    codes = np.arange(36).reshape(3, 12).astype(np.int8)
    index.upsert(np.arange(3), codes, np.ones((3, 2), np.float32))
    index.remove(np.array([1]))
    memory, live = index.memory(), np.ones(3, bool)
    got, scales, rows = np.zeros((3, 12), np.int8), np.zeros((3, 2), np.float32), np.array([2, 1, 0])
    indexkernels.copy_rows(memory.words, memory.place, rows, got, scales, live)
    assert live.tolist() == [True, False, True]
    np.testing.assert_array_equal(got[live], codes[[2, 0]])
    hashes = np.empty(3, np.int64)
    assert indexkernels.hashes_of(memory.words, memory.place, rows, hashes) == 2  # rows of an ItemIndex have hash 0
    assert hashes[:2].tolist() == [0, 0]
