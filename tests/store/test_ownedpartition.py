"""One owned partition in memory and its store: rows come in as they went out, and a store of something else is
refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from forebay.errors import StoreError, StoreLocked, StoreMissing, TopicMismatch
from forebay.segments.bundle import Bundle
from forebay.segments.state.fold import Fold
from forebay.store.codec import codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta

NOW, HOUR_MS = 1_790_000_000_000, 3_600_000
KEEP_MS = 24 * HOUR_MS


@pytest.fixture
def meta(bundle: Bundle) -> PartitionMeta:
    """What an empty store of the user side would start from."""
    return PartitionMeta("behaviour", 3, "topic-1", 4, bundle.layouts["user"].digest, 7)


def _open(
    bundle: Bundle, path: Path, meta: PartitionMeta, *, whole: bool = False, create: bool = True
) -> OwnedPartition:
    return OwnedPartition.open(path, bundle.layouts["user"], codec_of(bundle, "user"), meta, whole=whole, create=create)


def _emitted(partition: OwnedPartition, entities: list[str], state: int = 5) -> None:
    """Give `entities` a state, as if folded, encoded and committed."""
    rows = partition.rows_of(entities)
    partition.rows[rows, 0], partition.rows[rows, 1] = NOW, state
    partition.dirty[rows] = 0
    partition.touched(rows)


@pytest.mark.parametrize("whole", [False, True])
def test_rows_are_the_same_after_a_flush_and_a_reopening(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta, whole: bool
) -> None:
    """Past the first 1,024 rows too, read one by one or all at once; what is stored needs no encoding."""
    names = [f"ü{n}" for n in range(1500)]
    partition = _open(bundle, tmp_path, meta, whole=whole)
    assert partition.meta.offset == 7
    _emitted(partition, names)
    partition.rows[partition.rows_of(names), 1] = np.arange(1500) + 1
    partition.advance(2000, NOW)
    partition.flush(KEEP_MS)
    partition.close()
    partition = _open(bundle, tmp_path, meta, whole=whole)
    assert (partition.meta.offset, partition.meta.newest_append) == (2000, NOW)
    assert len(partition) == (1500 if whole else 0)
    at = partition.rows_of([*names[::-1], "new"])
    assert partition.rows[at, 1].tolist() == [*range(1500, 0, -1), 0]
    assert np.flatnonzero(partition.dirty).tolist() == [at[-1]]
    partition.close()


def test_what_was_not_flushed_is_gone_after_a_reopening(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """The store is whole flushes: rows, deletions, event ids and the offset move together."""
    partition = _open(bundle, tmp_path, meta)
    _emitted(partition, ["a", "b"])
    partition.spill(*(np.array([n]) for n in (NOW, 1, 2)))
    partition.advance(8, NOW)
    partition.flush(KEEP_MS)
    _emitted(partition, ["a"], state=6)
    partition.delete(int(partition.rows_of(["b"])[0]))
    partition.spill(*(np.array([n]) for n in (NOW, 3, 4)))
    partition.advance(9, NOW)
    partition.close()
    partition = _open(bundle, tmp_path, meta)
    assert partition.meta.offset == 8
    assert partition.rows[partition.rows_of(["a", "b"]), 1].tolist() == [5, 5]
    assert partition.seen(np.array([NOW, NOW]), np.array([1, 3]), np.array([2, 4])).tolist() == [True, False]
    partition.close()


def test_a_partition_with_pairs_to_emit_is_not_flushed(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """The store has no dirty marks: a second silent fold finds them again."""
    partition = _open(bundle, tmp_path, meta)
    _emitted(partition, ["a"])
    partition.rows_of(["new"])
    partition.advance(9, NOW)
    partition.flush(KEEP_MS)
    stored = partition.store.meta()
    assert stored is not None and stored.offset == 7
    partition.dirty[:] = 0
    partition.flush(KEEP_MS)
    stored = partition.store.meta()
    assert stored is not None and stored.offset == 9
    partition.close()


def test_a_deleted_entitys_row_is_used_again_and_its_record_leaves_the_store(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """Nothing of the old entity is left for the new one."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _emitted(partition, ["a", "b"])
    partition.flush(KEEP_MS)
    row = int(partition.rows_of(["a"])[0])
    assert partition.delete(row) == "a" and not partition.is_known("a")
    assert partition.rows_of(["c"]).tolist() == [row]
    assert not partition.rows[row].any() and partition.dirty[row]
    partition.dirty[:] = 0
    partition.touched(partition.rows_of(["c"]))
    partition.flush(KEEP_MS)
    assert [e for e, _, _ in partition.store.scan()] == ["b", "c"]
    partition.close()


def test_an_entity_that_left_and_came_back_is_in_the_store(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """Both between two flushes: the last word counts."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _emitted(partition, ["a"])
    partition.flush(KEEP_MS)
    partition.delete(int(partition.rows_of(["a"])[0]))
    _emitted(partition, ["a"], state=9)
    partition.flush(KEEP_MS)
    partition.close()
    partition = _open(bundle, tmp_path, meta, whole=True)
    assert partition.rows[partition.rows_of(["a"]), 1].tolist() == [9]
    partition.close()


def test_settling_leaves_deleted_rows_alone(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """A backfill's last tick may retire users: no row without an entity reaches the store."""
    partition = _open(bundle, tmp_path, meta, whole=True)
    _emitted(partition, ["a", "b"])
    partition.delete(int(partition.rows_of(["a"])[0]))
    partition.settle(40, NOW)
    partition.flush(KEEP_MS)
    assert [e for e, _, _ in partition.store.scan()] == ["b"]
    row = int(partition.rows_of(["c"])[0])
    assert all(partition.vectors["segments"][s.name]["as_of"][row] == 0 for s in partition.codec.segments)
    partition.close()


def test_event_ids_are_kept_for_the_time_in_which_duplicates_are_not_late(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """The bound itself is kept, what is older is forgotten."""
    partition = _open(bundle, tmp_path, meta)
    times = np.array([NOW - KEEP_MS - 1, NOW - KEEP_MS, NOW])
    partition.spill(times, times, times)
    partition.advance(8, NOW - HOUR_MS)
    partition.flush(KEEP_MS)
    assert partition.seen(times, times, times).tolist() == [True, True, True]
    partition.advance(9, NOW)
    partition.flush(KEEP_MS)
    assert partition.seen(times, times, times).tolist() == [False, True, True]
    partition.close()


def test_rows_of_other_encoders_wait_to_be_encoded_again(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """The state of a bundle with the same features is taken over; its vectors are not."""
    partition = _open(bundle, tmp_path, meta)
    _emitted(partition, ["a"])
    partition.flush(KEEP_MS)
    partition.close()
    name = "user.taste.layers.0.weight"
    other = Bundle(bundle.spec, {**bundle.tensors, name: bundle.tensors[name] * np.float32(2)})
    partition = _open(other, tmp_path, meta)
    at = partition.rows_of(["a"])
    assert partition.rows[at, 1].tolist() == [5] and partition.dirty[at].tolist() == [0b111]
    partition.close()


def test_a_tick_moves_the_clock_forward_only(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """A clock that steps back changes nothing."""
    partition, fold = _open(bundle, tmp_path, meta), Fold(bundle.layouts["user"])
    partition.tick(fold, NOW)
    partition.tick(fold, NOW - HOUR_MS)
    assert partition.meta.clock == NOW
    partition.close()


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"topic_id": "topic-2"}, TopicMismatch, "deleted and created again.*backfill --generation NEW"),
        ({"partitions": 8}, TopicMismatch, "has 8 partitions, and had 4"),
        ({"layout": "other"}, StoreError, "of another spec"),
        ({"partition": 2}, StoreError, r"holds behaviour\[3\], not behaviour\[2\]"),
        ({"topic": "other"}, StoreError, r"holds behaviour\[3\], not other\[3\]"),
    ],
)
def test_a_store_of_something_else_is_refused_and_let_go(
    changed: dict[str, object], error: type[Exception], words: str, bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """By name, with what to do; the directory is free again and as it was."""
    partition = _open(bundle, tmp_path, meta)
    partition.flush(KEEP_MS)
    partition.close()
    with pytest.raises(error, match=words):
        _open(bundle, tmp_path, msgspec.structs.replace(meta, **changed))
    partition = _open(bundle, tmp_path, meta)
    assert partition.meta == meta
    partition.close()


def test_a_store_that_is_not_there_is_refused_where_none_may_be_made(
    bundle: Bundle, tmp_path: Path, meta: PartitionMeta
) -> None:
    """Nothing is created by looking; one that is there is opened."""
    with pytest.raises(StoreMissing):
        _open(bundle, tmp_path / "store", meta, create=False)
    assert not (tmp_path / "store").exists()
    _open(bundle, tmp_path / "store", meta).close()
    _open(bundle, tmp_path / "store", meta, create=False).close()


def test_a_store_that_is_open_elsewhere_is_refused(bundle: Bundle, tmp_path: Path, meta: PartitionMeta) -> None:
    """One owner at a time."""
    partition = _open(bundle, tmp_path, meta)
    with pytest.raises(StoreLocked):
        _open(bundle, tmp_path, meta)
    partition.close()
