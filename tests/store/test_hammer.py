"""A shared table beside a writer in another process: no row of two versions, none of another entity, none missed.

Each claim is made a second time with the line of the protocol taken out that it rests on, and then it fails.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.segments.state.ids import hash_ids
from forebay.store import rowkernels, tablereader
from forebay.store.sharedtable import SharedTable
from forebay.store.tablereader import TableReader

from .tablechild import ENTITIES, IDENTITY, LIVE, SMALL, content, ids_of, torn

START_S = 120.0  # a cold cache of kernels, beside other work
SEEN_S = 60.0  # until what a broken protocol does is seen, from the second read on; it takes less than one
ROWS, VERSIONS = 500_000, 500  # that are read beside the writer
READS = 600  # of all entities


class Child:
    """A writer in a process of its own."""

    def __init__(self, what: str, folder: Path, *before: str) -> None:
        script = str(Path(__file__).with_name("tablechild.py"))
        self.process = subprocess.Popen(
            [*before, sys.executable, script, what, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        """What it says next; "" when it has ended, as it does where it says nothing for START_S."""
        assert self.process.stdout is not None
        bound = threading.Timer(START_S, self.process.kill)
        bound.start()
        try:
            return self.process.stdout.readline().strip()
        finally:
            bound.cancel()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=START_S)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    started: list[Child] = []

    def start(what: str, *before: str, folder: Path | None = None) -> Child:
        started.append(Child(what, folder or tmp_path / "item", *before))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Readers run kernels in whose source some lines are other ones."""

    def change(lines: dict[str, str]) -> None:
        source = Path(rowkernels.__file__).read_text()
        for line, other in lines.items():
            assert line in source
            source = source.replace(line, other)
        plain = "from numba import njit as _bare, njit as _kernel"
        line = "from forebay.store.kernels import "
        assert f"{line}_bare, _kernel, " in source
        source = source.replace(f"{line}_bare, _kernel, ", f"{plain}\n{line}")
        changed = types.ModuleType("changed_rowkernels")
        exec(compile(source.replace("cache=True, ", ""), "changed", "exec"), changed.__dict__)  # noqa: S102 - our own source
        monkeypatch.setattr(tablereader, "rowkernels", changed)

    return change


NO_SECOND_LOOK = {"return load_acquire(words, at) == seq": "return True"}
NO_HASH = {"return words[at + HASH] == np.uint64(wanted) and ": "return "}
_AHEAD = "ask_ahead(words, layout, rows, i, 8, 8, layout.width)"
# Some microseconds between where a row is and what it holds. A reader that has a core for itself is through before the
# row is another entity's: none of a minute's reads saw it.
_WAIT = "for _ in range(20_000):\n            out[i, 0] = out[i, 0] * ONE + load_acquire(words, 0)"
SLOWLY = {_AHEAD: f"{_AHEAD}\n        {_WAIT}"}


@dataclass
class Seen:
    """What reads of all entities gave: rows found, torn ones among them, ones of another entity, different versions."""

    found: int = 0
    torn: int = 0
    wrong: int = 0
    versions: set[int] = field(default_factory=set)


def _read_on(reader: TableReader, enough: Callable[[Seen], bool]) -> Seen:
    """Read all entities again and again until it is enough, or for SEEN_S."""
    numbers, seen = np.arange(ENTITIES), Seen()
    hashes = hash_ids(ids_of(numbers))
    reader.read(hashes)  # it compiles changed kernels, which takes half a minute beside other work
    end = time.monotonic() + SEEN_S
    while not enough(seen) and time.monotonic() < end:
        images, _, found, _ = reader.read(hashes)
        seen.found += int(found.sum())
        seen.wrong += int((images["last_event"][found, 0] != numbers[found]).sum())
        seen.torn += int(torn(images[found]).sum())
        seen.versions.update(images["as_of"][found, 0].tolist())
    return seen


@pytest.mark.parametrize("lines", [{}, SLOWLY], ids=["as it is", "slowly"])
def test_no_row_is_torn_or_another_entitys(
    lines: dict[str, str], child: Callable[..., Child], tmp_path: Path, without: Callable[[dict[str, str]], None]
) -> None:
    """Beside updates, deletes and rows that are used again at once."""
    if lines:
        without(lines)
    assert child("churn").line() == "ready"
    reader = TableReader(tmp_path / "item", IDENTITY, SMALL)
    seen = _read_on(reader, lambda seen: seen.found > ROWS and len(seen.versions) > VERSIONS)
    assert (seen.torn, seen.wrong) == (0, 0)
    assert seen.found > ROWS and len(seen.versions) > VERSIONS  # else nothing was written meanwhile


def test_without_the_second_look_at_the_number_rows_are_torn(
    child: Callable[..., Child], tmp_path: Path, without: Callable[[dict[str, str]], None]
) -> None:
    without(NO_SECOND_LOOK)
    assert child("churn").line() == "ready"
    assert _read_on(TableReader(tmp_path / "item", IDENTITY, SMALL), lambda seen: seen.torn > 0).torn > 0


def test_without_the_hash_in_the_window_rows_are_another_entitys(
    child: Callable[..., Child], tmp_path: Path, without: Callable[[dict[str, str]], None]
) -> None:
    without(NO_HASH | SLOWLY)
    assert child("churn").line() == "ready"
    assert _read_on(TableReader(tmp_path / "item", IDENTITY, SMALL), lambda seen: seen.wrong > 0).wrong > 0


def _names_of(reader: TableReader) -> tuple[int, int]:
    """How many ids were read, and how many of them are not those of their rows."""
    ids = ids_of(np.arange(ENTITIES))
    hashes = hash_ids(ids)
    _, _, found, rows = reader.read(hashes)
    names = reader.names(rows[found], hashes[found])
    pairs = [(name, ids[i]) for name, i in zip(names, np.flatnonzero(found).tolist(), strict=True) if name is not None]
    return len(pairs), sum(name != wanted for name, wanted in pairs)


def test_a_rows_id_is_its_own(child: Callable[..., Child], tmp_path: Path) -> None:
    """Its bytes may be given to another row; who asks then is told that there is none."""
    assert child("churn").line() == "ready"
    reader = TableReader(tmp_path / "item", IDENTITY, SMALL)
    read, wrong = map(sum, zip(*(_names_of(reader) for _ in range(READS)), strict=True))
    assert wrong == 0 and read > READS


def test_a_rows_id_is_anothers_without_the_window(
    child: Callable[..., Child], tmp_path: Path, without: Callable[[dict[str, str]], None]
) -> None:
    without(NO_SECOND_LOOK | NO_HASH)
    assert child("churn").line() == "ready"
    reader = TableReader(tmp_path / "item", IDENTITY, SMALL)
    _names_of(reader)  # it compiles changed kernels, which takes half a minute beside other work
    end = time.monotonic() + SEEN_S
    while time.monotonic() < end:
        if _names_of(reader)[1]:
            return
    pytest.fail("every id was its own")


def _carried_too_far(reader: TableReader, reads: int, until_s: float = 0.0) -> int:
    """How many rows of some version are said to be as of a watermark that only a later version came before."""
    hashes = hash_ids(ids_of(np.arange(LIVE)))
    reader.halves(hashes)  # it compiles changed kernels, which takes half a minute beside other work
    wrong, end = 0, time.monotonic() + until_s
    while reads > 0 or (not wrong and time.monotonic() < end):
        reads -= 1
        halves, times, found, _ = reader.halves(hashes)
        versions = halves[found, 0].astype(np.int64)  # of the thousand
        # The watermark of version v is v + 9, and it is told before version v + 10 is written.
        wrong += int(((times.as_of[found, 0] - versions) % 1000 > 9).sum())
    return wrong


def test_no_watermark_is_of_a_later_version_than_its_row(child: Callable[..., Child], tmp_path: Path) -> None:
    """Law 5: a row that is read before an update is not made as fresh as that update."""
    assert child("carry").line() == "ready"
    assert _carried_too_far(TableReader(tmp_path / "item", IDENTITY, SMALL), READS) == 0


def test_watermarks_that_are_taken_after_the_row_make_it_too_fresh(
    child: Callable[..., Child], tmp_path: Path, without: Callable[[dict[str, str]], None]
) -> None:
    # As a reader would do that gathers first, and asks how old it is then.
    late = """
    marks_of(words, first_mark, marks)
    for i in range(len(rows)):
        if states[i] == FOUND:
            at = layout.origin + rows[i] * layout.width
            times_of(words, ints, flags, layout, at, marks, carried[i], events[i], said[i])


"""
    source = Path(rowkernels.__file__).read_text()
    end = '@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}'
    part = source[source.index("def read_halves(") : source.index(end)]
    without({part: part.rstrip() + late})
    assert child("carry").line() == "ready"
    assert _carried_too_far(TableReader(tmp_path / "item", IDENTITY, SMALL), 0, SEEN_S) > 0


def _lost(reader: TableReader, seconds: float) -> tuple[int, int]:
    """How many entities there were at last, and how many that had been written were not found."""
    random, end, lost, count = np.random.default_rng(2), time.monotonic() + seconds, 0, 0
    while time.monotonic() < end and not lost:
        count = int(reader.watermarks[0])
        numbers = random.integers(0, count, 500)
        numbers[:100] = np.arange(count - 100, count)
        images, _, found, _ = reader.read(hash_ids(ids_of(numbers)))
        lost += int((~found).sum()) + int(torn(images[found]).sum())
    return count, lost


def test_a_table_grows_under_its_readers(child: Callable[..., Child], tmp_path: Path) -> None:
    """Rows, ids and the index: what was written is found from then on, by readers that mapped it when it was small."""
    assert child("grow").line() == "ready"
    reader = TableReader(tmp_path / "item", IDENTITY, SMALL)
    before = reader.capacity
    count, lost = _lost(reader, 5.0)
    assert lost == 0 and count > 2000 and reader.capacity > 4 * before


def test_a_reader_that_believes_every_miss_loses_rows(
    child: Callable[..., Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert child("grow").line() == "ready"
    reader = TableReader(tmp_path / "item", IDENTITY, SMALL)
    plain, epoch = rowkernels.word_of, reader._epoch

    def blind(words: Any, at: int) -> int:
        return epoch if at == tablereader.EPOCH else int(plain(words, at))

    monkeypatch.setattr(tablereader.rowkernels, "word_of", blind)
    assert _lost(reader, SEEN_S)[1] > 0


def test_a_writer_that_is_killed_in_mid_row_is_mended(child: Callable[..., Child], tmp_path: Path) -> None:
    """Its row is not there until the next writer has written it; all others are, and a reader waits for it once."""
    folder, numbers = tmp_path / "item", np.arange(LIVE)
    ids = ids_of(numbers)
    for _ in range(30):
        writer = child("busy")
        assert writer.line() == "ready"
        reader = TableReader(folder, IDENTITY, SMALL)
        time.sleep(0.05)
        writer.kill()
        images, _, found, rows = reader.read(hash_ids(ids))
        if not found.all():
            break
    assert found.sum() == LIVE - 1 and not torn(images[found]).any() and rows[~found].tolist() == [-1]
    started = len(reader._stuck)
    reader.read(hash_ids(ids))
    assert started == len(reader._stuck) == 1
    table = SharedTable(folder, IDENTITY, SMALL)
    assert (table.mended, len(table)) == (1, LIVE - 1)
    assert reader.read(hash_ids(ids))[2].tolist() == found.tolist()
    rows_, halves = content(numbers, np.full(LIVE, 5))
    table.upsert(ids, rows_, [1] * LIVE, halves)
    images, _, found, _ = reader.read(hash_ids(ids))
    assert found.all() and not torn(images).any() and (images["as_of"] == 5).all()
    table.close()


def _tmpfs(folder: Path) -> tuple[str, ...]:
    """Words in front of a command that mount a device of 3 MiB at `folder`; none where that is not allowed."""
    before = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=3m none {folder} && exec "$@"', "sh")
    try:
        done = subprocess.run([*before, "true"], check=False, capture_output=True, timeout=30)
    except FileNotFoundError:
        return ()
    return before if done.returncode == 0 else ()


def test_a_full_device_is_an_error_and_the_table_goes_on(child: Callable[..., Child], tmp_path: Path) -> None:
    """Here files may not be longer than 2 MiB. What there is is read and updated, and with room there is more."""
    writer = child("fill")
    assert writer.line() == "ready"
    word, before, count, said = writer.line().split(" ", 3)
    assert word == "full" and int(count) >= int(before) > 0 and "are not served" in said
    assert writer.line() == "updated"
    reader, numbers = TableReader(tmp_path / "item", IDENTITY, SMALL), np.arange(int(count))
    images, _, found, _ = reader.read(hash_ids(ids_of(numbers)))
    assert found.all() and (images["as_of"] == 2).all() and not torn(images).any()
    assert writer.process.stdin is not None
    writer.process.stdin.write("\n")
    writer.process.stdin.flush()
    assert writer.line() == f"more {int(count) + 2000}"


def test_a_full_tmpfs_is_the_same_error(child: Callable[..., Child], tmp_path: Path) -> None:
    """The device itself has no room."""
    (folder := tmp_path / "item").mkdir()
    if not (before := _tmpfs(folder)):
        pytest.skip("this user may not mount a tmpfs")
    writer = child("fill", *before)
    assert writer.line() == "ready"
    word, _, count, said = writer.line().split(" ", 3)
    assert word == "full" and int(count) > 0 and "No space left on device" in said
    assert writer.line() == "updated"


def test_a_writer_that_does_not_allocate_first_is_killed(child: Callable[..., Child], tmp_path: Path) -> None:
    """By SIGBUS, where the device has no room for what the file is long: this is what allocation is for."""
    (folder := tmp_path / "item").mkdir()
    if not (before := _tmpfs(folder)):
        pytest.skip("this user may not mount a tmpfs")
    writer = child("unallocated", *before)
    assert writer.line() == "ready"
    assert writer.process.wait(START_S) == -signal.SIGBUS
