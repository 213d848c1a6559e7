"""A worker's state: whole batches, and a digest that compares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
META = PartitionMeta("behaviour", 3, "t1", 8, "layout", offset=0)


def _at(offset: int) -> PartitionMeta:
    return msgspec.structs.replace(META, offset=offset)


def test_a_new_store_has_no_meta(tmp_path: Path) -> None:
    """Nothing was folded yet: there is no offset to resume from."""
    with PartitionStore.open(tmp_path, create=True) as store:
        assert store.meta() is None
        assert store.get([b"a"]) == [None]


def test_a_batch_is_there_after_reopening(tmp_path: Path) -> None:
    """States, deletions and meta of one write are read back by the next owner."""
    with PartitionStore.open(tmp_path, create=True) as store:
        store.write(
            puts=[(b"a", StoredRow(b"1", b"v")), (b"b", StoredRow(b"2", b""))],
            deletes=[],
            meta=_at(1),
        )
        store.write(
            puts=[("é".encode(), StoredRow(b"3", b""))],
            deletes=[b"a"],
            meta=_at(2),
        )
    with PartitionStore.open(tmp_path, create=False) as store:
        assert store.meta() == _at(2)
        assert store.get(["é".encode(), b"a", b"b"]) == [(b"3", b""), None, (b"2", b"")]
        assert list(store.scan()) == [(b"b", (b"2", b"")), ("é".encode(), (b"3", b""))]


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


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    """Two stores filled in other orders and batches agree; one changed state, key, or place where one ends does not."""
    a = PartitionStore.open(tmp_path / "a", create=True)
    b = PartitionStore.open(tmp_path / "b", create=True)
    rows = [(b"u%d" % i, StoredRow(bytes([i]), b"vectors are no part of it")) for i in range(50)]
    a.write(puts=rows, meta=_at(9))
    for name, row in reversed(rows):
        b.write(
            puts=[(name, row._replace(vectors=b"")), (b"gone", StoredRow(b"", b""))],
            deletes=[b"gone"],
            pending=[(name, 1)],
            meta=_at(1),
        )
    whole = a.digest()
    assert whole == b.digest()
    b.write(puts=[(b"u1", StoredRow(b"other", b""))], meta=_at(2))
    assert b.digest() != whole
    b.write(puts=[rows[1], (b"u50", StoredRow(b"", b""))], meta=_at(3))
    assert b.digest() != whole
    b.write(deletes=[b"u50"], meta=_at(4))
    assert b.digest() == whole
    a.write(puts=[(b"v", StoredRow(b"12", b""))], meta=_at(10))
    b.write(puts=[(b"v1", StoredRow(b"2", b""))], meta=_at(5))
    assert a.digest() != b.digest()
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
    store.write(puts=puts, pending=[(b"w%d" % offset, offset)], meta=meta)
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
            assert sorted(mask for _, mask in store.pending()) == list(range(1, meta.offset + 1))


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
            assert sorted(mask for _, mask in store.pending()) == list(range(1, meta.offset + 1))
