"""Rows found by hash: exact for ids of one hash, and a plain dictionary's whatever is claimed and released."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from forebay.segments.state.ids import Ids
from forebay.store.rowindex import RowIndex


def _claimed(index: RowIndex, *names: str) -> list[int]:
    rows: list[int] = index.claim(Ids.of(names))[0].tolist()
    return rows


def test_an_id_keeps_its_row_and_comes_twice_in_a_batch_as_one() -> None:
    """Rows count from 0, and a call says which of them it made."""
    index = RowIndex()
    rows, fresh = index.claim(Ids.of(["a", "ü", "a"]))
    assert rows.tolist() == [0, 1, 0] and fresh.tolist() == [True, True, False]
    assert index.find(Ids.of(["ü", "b", "a"])).tolist() == [1, -1, 0]
    assert index.names(np.array([1, 0])) == ["ü".encode(), b"a"]
    assert len(index) == 2 and index.rows().tolist() == [0, 1]


def test_ids_of_one_hash_are_two_entities() -> None:
    """The bytes decide, of equal and of different lengths, and one can go without the other."""
    index = RowIndex()
    ids = Ids.of(["one", "two", "twofold"])
    ids = replace(ids, hashes=np.full(3, ids.hashes[0]))
    assert index.claim(ids)[0].tolist() == [0, 1, 2]
    index.release(np.array([0]))
    assert index.find(ids).tolist() == [-1, 1, 2]


def test_the_empty_batch_is_fine() -> None:
    """As of a partition in which nothing waits."""
    index = RowIndex()
    assert index.claim(Ids.of([]))[0].tolist() == index.find(Ids.of([])).tolist() == []
    assert index.names(np.zeros(0, np.int64)) == []
    index.release(np.zeros(0, np.int64))


@pytest.mark.parametrize("seed", range(6))
def test_it_is_a_dictionary(seed: int) -> None:
    """Thousands of ids come and go: cells fill up and are cleared, names are packed, rows are given again."""
    random, index, rows = Random(seed), RowIndex(), {}
    for turn in range(60):
        names = [f"{random.randrange(3000)}" * random.randrange(1, 9) for _ in range(random.randrange(400))]
        got, fresh = index.claim(Ids.of(names))
        for name, row, new in zip(names, got.tolist(), fresh.tolist(), strict=True):
            assert new == (name not in rows)
            assert rows.setdefault(name, row) == row
        assert len(set(rows.values())) == len(rows) == len(index)
        if turn % 2:
            gone = random.sample(sorted(rows), random.randrange(len(rows) + 1))
            index.release(np.array([rows.pop(name) for name in gone], dtype=np.int64))
            assert (index.find(Ids.of(gone)) == -1).all()
        assert index.find(Ids.of(list(rows))).tolist() == list(rows.values())
        assert index.names(np.array(list(rows.values()), dtype=np.int64)) == [name.encode() for name in rows]
        assert index.rows().tolist() == sorted(rows.values())
    assert index.capacity < 16_384  # rows of released ids were given again


def test_a_released_row_is_the_next_one() -> None:
    """So that arrays beside the index stay as small as they can."""
    index = RowIndex()
    assert _claimed(index, "a", "b", "c") == [0, 1, 2]
    index.release(np.array([1]))
    assert _claimed(index, "d", "e") == [1, 3]


def test_what_is_reserved_is_there_and_grows_no_more() -> None:
    """Ids that are known by then keep their rows."""
    index = RowIndex()
    (first,) = index.claim(Ids.of(["a"]))[0]
    index.reserve(5_001)
    assert index.capacity == 5_001
    rows, fresh = index.claim(Ids.of(["a", *(f"u{n}" for n in range(4_999))]))
    assert index.capacity == 5_001 and rows[0] == first and fresh[1:].all() and len(set(rows.tolist())) == 5_000
