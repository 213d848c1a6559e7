"""One directory, one writer, no silence: what closes rocksdict's traps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import Options, WriteBatch

from forebay.errors import StoreCorrupt, StoreError, StoreLocked
from forebay.store.partitionstore import PartitionStore
from forebay.store.rocks import Rocks
from forebay.store.vectors import VectorStore


def _batch(**puts: bytes) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for key, value in puts.items():
        batch.put(key.encode(), value)
    return batch


def test_a_second_process_is_locked_out(tmp_path: Path) -> None:
    """Two writers of one directory cannot happen, and the error says so by name."""
    code = (
        "import sys; from pathlib import Path; from forebay.errors import StoreLocked; "
        "from forebay.store.rocks import Rocks\n"
        "try: Rocks(Path(sys.argv[1]), create=False)\n"
        "except StoreLocked: print('locked')"
    )
    with Rocks(tmp_path, create=True):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, check=True
        )
        with pytest.raises(StoreLocked, match="Stop that one first, or give this one a folder of its own"):
            Rocks(tmp_path, create=False)
    assert done.stdout == "locked\n"
    Rocks(tmp_path, create=False).close()


def test_nothing_is_created_unasked(tmp_path: Path) -> None:
    """A wrong path in a normal start is an error, not a new and empty store."""
    with pytest.raises(StoreError, match="no store"):
        Rocks(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()


def test_the_cache_stays_bounded_when_a_store_is_opened_again(tmp_path: Path) -> None:
    """The stored options would win over the given cache; opening checks that they did not."""
    for _ in range(2):
        with Rocks(tmp_path, create=True) as rocks:
            rocks.write(_batch(a=b"1"))


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST"])
def test_damaged_metadata_is_refused(tmp_path: Path, name: str) -> None:
    """A directory whose files do not fit together is corrupt, and the remedy is that of its owner."""
    with Rocks(tmp_path, create=True) as rocks:
        rocks.write(_batch(a=b"1"))
    for path in tmp_path.glob(f"{name}*"):
        path.write_bytes(b"not this")
    with pytest.raises(StoreCorrupt, match="Put a copy of the directory in its place"):
        Rocks(tmp_path, create=False)
    with pytest.raises(StoreCorrupt, match=r"an earlier copy .* forebay backfill --generation NEW"):
        PartitionStore.open(tmp_path, create=False)
    with pytest.raises(StoreCorrupt, match="Delete the directory and start again"):
        VectorStore.open(tmp_path, create=True, generation="g1", bundle_hash="b")


def test_a_flipped_bit_is_found_by_get_and_by_scan(tmp_path: Path) -> None:
    """A damaged block raises in a scan, where `items()` would just have ended early."""
    with Rocks(tmp_path, create=True) as rocks:
        rocks.write(_batch(**{f"k{i:05d}": os.urandom(64) for i in range(5000)}))
        rocks.snapshot(tmp_path.parent / f"{tmp_path.name}.copy")  # what is in memory is in a sorted file then
    (table,) = tmp_path.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with Rocks(tmp_path, create=False) as rocks:
        with pytest.raises(StoreCorrupt):
            list(rocks.scan(b"k"))
        with pytest.raises(StoreCorrupt):
            rocks.scan(b"k").take(1 << 30)
        with pytest.raises(StoreCorrupt):
            whole = rocks.scan_all(b"k")
            while whole.take(100):
                pass
        with pytest.raises(StoreCorrupt):
            rocks.get([f"k{i:05d}".encode() for i in range(5000)])


def test_a_scan_ends_where_its_prefix_ends(tmp_path: Path) -> None:
    """Neighbouring key spaces do not leak into one another, and a later write is not seen."""
    with Rocks(tmp_path, create=True) as rocks:
        rocks.write(_batch(a1=b"x", b1=b"y", b2=b"z", c1=b"w"))
        scan = rocks.scan(b"b")
        rocks.write(_batch(b3=b"late"))
        assert list(scan) == [(b"1", b"y"), (b"2", b"z")]
        assert list(rocks.scan(b"d")) == []
        whole = rocks.scan_all(b"b")
        assert [whole.take(2), whole.take(2), whole.take(2)] == [[(b"b1", b"y"), (b"b2", b"z")], [(b"b3", b"late")], []]
        assert rocks.scan_all(b"d").take(5) == [] and rocks.scan_all(b"c").take(5) == [(b"c1", b"w")]
        parts = rocks.scan(b"b")
        assert [parts.take(1), parts.take(5), parts.take(5)] == [[(b"1", b"y")], [(b"2", b"z"), (b"3", b"late")], []]


def test_closing_ends_open_scans_and_frees_the_directory(tmp_path: Path) -> None:
    """An iterator that lives on would keep the lock: the next owner could not open the store."""
    rocks = Rocks(tmp_path, create=True)
    rocks.write(_batch(a=b"1", b=b"2"))
    scan = rocks.scan(b"")
    next(scan)
    rocks.close()
    with pytest.raises(StoreError, match="closed"):
        next(scan)
    with pytest.raises(StoreError, match="closed"):
        rocks.get([b"a"])
    Rocks(tmp_path, create=False).close()


def test_a_write_that_raised_stops_the_store(tmp_path: Path) -> None:
    """Whether the batch is on disk is unknown: nothing but closing is allowed, and a reopened store works."""
    rocks = Rocks(tmp_path, create=True)
    rocks.write(_batch(a=b"1"))
    assert rocks._db is not None
    gone = rocks._db.create_column_family("gone", Options(raw_mode=True))
    handle = rocks._db.get_column_family_handle("gone")
    rocks._db.drop_column_family("gone")
    bad = _batch(a=b"2")
    bad.put(b"x", b"y", handle)
    with pytest.raises(StoreError, match="reopen"):
        rocks.write(bad)
    with pytest.raises(StoreError, match="earlier write raised"):
        rocks.get([b"a"])
    with pytest.raises(StoreError, match="earlier write raised"):
        rocks.write(_batch(a=b"3"))
    del gone, handle, bad
    rocks.close()
    with Rocks(tmp_path, create=False) as again:
        assert again.get([b"a"])[0] in (b"1", b"2")


FILL = """
import os, sys
from pathlib import Path
from rocksdict import WriteBatch
from forebay.errors import StoreError
from forebay.store.rocks import Rocks

def tell(call):
    try:
        call()
    except StoreError as error:
        print("MAKE ROOM" if "Make room on that disk" in error.do and "No space left" in error.what else repr(error))
        return True
    return False

def write(number):
    batch = WriteBatch(raw_mode=True)
    batch.put(b"k%06d" % number, os.urandom(65536))
    batch.put(b"written", b"%d" % number)
    store.write(batch)

disk, number = Path(sys.argv[1]), 0
(disk / "other").write_bytes(bytes(24 << 20))
store = Rocks(disk / "store", create=True)
while not tell(lambda: write(number)):
    number += 1
store.close()
tell(lambda: Rocks(disk / "store", create=False).close())
(disk / "other").unlink()  # the remedy: opening writes the log, up to 16 MiB, into a table beside it
store = Rocks(disk / "store", create=False)
(last,) = store.get([b"written"])
print("acknowledged" if number > 20 and int(last) in (number - 1, number) else f"{last} of {number}")
write(int(last) + 1)
store.close()
"""


def test_a_full_disk_asks_for_room_and_loses_nothing(tmp_path: Path) -> None:
    """A real one of 48 MiB, mounted where nobody else sees it: writing and opening name the remedy, and after it all is
    there."""
    mounted = 'mount -t tmpfs -o size=48m none "$0" && exec "$1" -c "$2" "$0"'
    try:
        probe = subprocess.run(
            ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0"', str(tmp_path)], check=False, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if probe.returncode:
        pytest.skip("this user may not mount a file system of its own")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, str(tmp_path), sys.executable, FILL],
        check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["MAKE ROOM", "MAKE ROOM", "acknowledged"], done.stdout + done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    ["No space left on device: While appending to file: /x/000008.log: No space left on device", "Disk quota exceeded"],
)
def test_what_a_disk_without_room_says_is_known(words: str, tmp_path: Path) -> None:
    """RocksDB's own words, as it gave them on a full file system: where none can be mounted, this is what is left to
    check."""
    with Rocks(tmp_path, create=True) as rocks:
        named = rocks._named(Exception(f"IO error: {words}"))
    assert type(named) is StoreError and "Make room" in named.do and named.where == str(tmp_path)


def test_a_forked_child_cannot_write(tmp_path: Path) -> None:
    """RocksDB would take the child's write and lose it."""
    rocks = Rocks(tmp_path, create=True)
    rocks._pid += 1  # as it looks from a child
    with pytest.raises(StoreError, match="fork"):
        rocks.write(_batch(a=b"1"))
    rocks.close()
