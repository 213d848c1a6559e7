"""A node's copy of a generation: rows, watermarks and offsets move together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.errors import GenerationMismatch, StoreLocked
from forebay.store.vectors import VectorStore

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _open(path: Path, generation: str = "g1", bundle: str = "b1", create: bool = True) -> VectorStore:
    return VectorStore.open(path, create=create, generation=generation, bundle_hash=bundle)


def test_rows_and_offsets_are_there_after_reopening(tmp_path: Path) -> None:
    """A restart fills the tables from here and reads on from the stored offsets."""
    with _open(tmp_path) as store:
        store.write("user", [("a", 3, b"ua"), ("b", 4, b"ub")], [], {3: 100}, {("v.user", 3): 7})
        store.write("item", [("a", 1, b"ia")], ["absent"], {3: 50}, {("v.item", 3): 9, ("v.user", 3): 8})
        store.write("user", [], ["b"], {3: 101, 70_000: 5}, {})
    with _open(tmp_path, create=False) as store:
        users, items = list(store.scan_by("user", 9)), list(store.scan_by("item", 9))
        assert [(part.records, part.partitions.tolist()) for part in users] == [([b"ua"], [3])]
        assert [(part.records, part.partitions.tolist()) for part in items] == [([b"ia"], [1])]
        assert store.get("user", ["b", "a"]) == [None, b"ua"]
        assert store.offsets() == {("v.user", 3): 8, ("v.item", 3): 9}
        assert store.watermarks("user") == {3: 101, 70_000: 5}
        assert store.watermarks("item") == {3: 50}


@pytest.mark.parametrize("other", [("g2", "b1"), ("g1", "b2")])
def test_a_directory_never_changes_its_generation(tmp_path: Path, other: tuple[str, str]) -> None:
    """Law 4: another generation's or bundle's rows are not opened, and the refusal frees the directory."""
    _open(tmp_path).close()
    with pytest.raises(GenerationMismatch, match="directory of its own"):
        _open(tmp_path, *other)
    _open(tmp_path).close()


def test_one_writer(tmp_path: Path) -> None:
    """A second replica on the same directory is refused."""
    with _open(tmp_path), pytest.raises(StoreLocked):
        _open(tmp_path)


WRITER = """
import sys
from pathlib import Path
from forebay.store.vectors import VectorStore
store = VectorStore.open(Path(sys.argv[1]), create=True, generation="g", bundle_hash="b")
offset = store.offsets().get(("v", 0), 0)
while True:
    offset += 1
    puts = [(f"e{i}", 0, offset.to_bytes(8, "big")) for i in range(30)]
    store.write("user", puts, [], {0: offset}, {("v", 0): offset})
    print(offset, flush=True)
"""


def test_kill_9_leaves_rows_and_offsets_in_step(tmp_path: Path) -> None:
    """After each kill all rows, the watermark and the offset are of one batch, none older than the last
    acknowledged."""
    for wanted in (1, 60):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(wanted)]
        child.kill()
        lines += child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        with _open(tmp_path, "g", "b", create=False) as store:
            offset = store.offsets()["v", 0]
            assert offset >= int(lines[-1])
            assert {value for part in store.scan_by("user", 9) for value in part.records} == {offset.to_bytes(8, "big")}
            assert store.watermarks("user") == {0: offset}


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
    for batches in (2, 3, 4):  # the first one claims the directory for its generation
        path = tmp_path / str(batches)
        done = subprocess.run([sys.executable, "-c", dying % batches + WRITER, str(path)], env=ENVIRONMENT, check=False)
        assert done.returncode == -signal.SIGKILL
        with _open(path, "g", "b", create=False) as store:
            offset = store.offsets()["v", 0]
            assert {value for part in store.scan_by("user", 9) for value in part.records} == {offset.to_bytes(8, "big")}
            assert store.watermarks("user") == {0: offset}
