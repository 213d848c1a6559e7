"""A worker's state: whole batches, exact forgetting, a digest that compares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow, spilled_keys

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
META = PartitionMeta("behaviour", 3, "t1", 8, "layout", offset=0)


def _at(offset: int) -> PartitionMeta:
    return msgspec.structs.replace(META, offset=offset)


def _keys(*times: int) -> list[bytes]:
    return spilled_keys(np.array(times), np.arange(len(times)), np.arange(len(times)))


def test_a_new_store_has_no_meta(tmp_path: Path) -> None:
    """Nothing was folded yet: there is no offset to resume from."""
    with PartitionStore.open(tmp_path, create=True) as store:
        assert store.meta() is None
        assert store.get([b"a"]) == [None]


def test_a_batch_is_there_after_reopening(tmp_path: Path) -> None:
    """States, deletions, spilled keys and meta of one write are read back by the next owner."""
    with PartitionStore.open(tmp_path, create=True) as store:
        store.write(
            puts=[(b"a", StoredRow(b"1", b"v")), (b"b", StoredRow(b"2", b""))],
            deletes=[],
            meta=_at(1),
        )
        store.write(
            puts=[("é".encode(), StoredRow(b"3", b""))],
            deletes=[b"a"],
            spilled=_keys(5),
            meta=_at(2),
        )
    with PartitionStore.open(tmp_path, create=False) as store:
        assert store.meta() == _at(2)
        assert store.get(["é".encode(), b"a", b"b"]) == [(b"3", b""), None, (b"2", b"")]
        assert list(store.scan()) == [(b"b", (b"2", b"")), ("é".encode(), (b"3", b""))]
        assert store.seen(_keys(5, 6)) == [True, False]


def test_what_waits_is_found_by_the_next_owner(tmp_path: Path) -> None:
    """Masks by id, replaced by newer ones, and gone with what settles them or with their entity."""
    with PartitionStore.open(tmp_path, create=True) as store:
        rows = [(name, StoredRow(b"1", b"")) for name in (b"a", b"b", "é".encode())]
        waits = [(name, 0b101) for name, _ in rows]
        store.write(puts=rows, pending=waits, meta=_at(1))
        store.write(
            deletes=[b"a"], pending=[(b"b", 1 << 61)], settled=["é".encode()],
            meta=_at(2),
        )  # fmt: skip
    with PartitionStore.open(tmp_path, create=False) as store:
        assert store.pending() == [(b"b", 1 << 61)]


def test_expiry_forgets_exactly_the_older_keys(tmp_path: Path) -> None:
    """A spilled key of the bound itself stays, entities stay, and keys of the same batch stay."""
    with PartitionStore.open(tmp_path, create=True) as store:
        keys = _keys(0, 99, 100, 1 << 40)
        store.write(puts=[(b"a", StoredRow(b"1", b""))], spilled=keys, meta=_at(1))
        store.write(expire_before_ms=100, meta=_at(2))
        assert store.seen(keys) == [False, False, True, True]
        assert list(store.scan_spilled()) == keys[2:]
        assert store.get([b"a"]) == [(b"1", b"")]


numbers = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(st.integers(0, 2**53), numbers, numbers), max_size=30))
def test_spilled_keys_are_big_endian_triples(triples: list[tuple[int, int, int]]) -> None:
    """Equal to the plain definition, trailing zeros and all: byte order was lost here once."""
    columns = np.array(triples, np.int64).reshape(-1, 3).T
    expected = [b"".join(value.to_bytes(8, "big", signed=True) for value in triple) for triple in triples]
    assert spilled_keys(*columns) == expected


def test_a_negative_time_is_refused() -> None:
    """It would sort behind all others and never expire."""
    with pytest.raises(ValueError, match="negative"):
        spilled_keys(np.array([-1]), np.array([0]), np.array([0]))


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    """Two stores filled in other orders and batches agree; one changed byte, key or spilled key does not."""
    a = PartitionStore.open(tmp_path / "a", create=True)
    b = PartitionStore.open(tmp_path / "b", create=True)
    rows = [(b"u%d" % i, StoredRow(bytes([i]), b"vectors are no part of it")) for i in range(50)]
    a.write(puts=rows, spilled=_keys(1, 2), meta=_at(9))
    for name, row in reversed(rows):
        b.write(
            puts=[(name, row._replace(vectors=b"")), (b"gone", StoredRow(b"", b""))],
            deletes=[b"gone"],
            pending=[(name, 1)],
            spilled=_keys(1, 2),
            meta=_at(1),
        )
    assert a.digest() == b.digest()
    b.write(expire_before_ms=2, meta=_at(2))
    assert a.digest() != b.digest()
    assert a.digest(spilled_from_ms=2) == b.digest(spilled_from_ms=2)
    b.write(puts=[(b"u1", StoredRow(b"other", b""))], meta=_at(2))
    assert a.digest(spilled_from_ms=2) != b.digest(spilled_from_ms=2)
    a.close()
    b.close()


WRITER = """
import sys
from pathlib import Path
import msgspec
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow
store = PartitionStore.open(Path(sys.argv[1]), create=True)
meta = store.meta() or PartitionMeta("t", 0, "id", 1, "layout", 0)
while True:
    offset = meta.offset + 1
    meta = msgspec.structs.replace(meta, offset=offset)
    puts = [(b"e%d" % i, StoredRow(offset.to_bytes(8, "big") * 20, b"")) for i in range(30)]
    store.write(puts=puts, spilled=[offset.to_bytes(8, "big") * 3], meta=meta)
    print(offset, flush=True)
"""


def test_kill_9_leaves_whole_batches(tmp_path: Path) -> None:
    """Law 1: after each kill the offset and every row agree, and nothing acknowledged is lost."""
    for wanted in (1, 40, 90):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert child.stdout is not None
        acknowledged = 0
        for _ in range(wanted):
            acknowledged = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        acknowledged = int(rest[-1]) if rest else acknowledged
        with PartitionStore.open(tmp_path, create=False) as store:
            meta = store.meta()
            assert meta is not None and meta.offset >= acknowledged
            states = {entity: row.state for entity, row in store.scan()}
            assert len(states) == 30
            assert set(states.values()) == {meta.offset.to_bytes(8, "big") * 20}
            assert len(list(store.scan_spilled())) == meta.offset


def test_a_write_is_one_batch(tmp_path: Path) -> None:
    """Killed right after any of its batches, a store is whole: the test above needs luck to see it, this one does
    not."""
    dying = """
import os, signal
from forebay.store.rocks import Rocks
plain, left = Rocks.write, [%d]
def write(self, batch):
    plain(self, batch)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Rocks.write = write
"""
    for batches in (1, 2, 3, 4):
        path = tmp_path / str(batches)
        done = subprocess.run([sys.executable, "-c", dying % batches + WRITER, str(path)], env=ENVIRONMENT, check=False)
        assert done.returncode == -signal.SIGKILL
        with PartitionStore.open(path, create=False) as store:
            meta = store.meta()
            assert meta is not None
            assert {row.state for _, row in store.scan()} == {meta.offset.to_bytes(8, "big") * 20}
            assert len(list(store.scan_spilled())) == meta.offset
