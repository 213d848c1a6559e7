"""A source partition's identities survive flushes, crashes and restarts, together with the offset that accounts for
them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.clock import DAY_MS, HOUR_MS
from forebay.errors import StoreCorrupt, StoreLocked, StoreMissing, TopicMismatch
from forebay.store.rocks import Rocks
from forebay.store.sourcestore import SourceMeta, SourceStore
from forebay.streams.intake.duplicates import identities_of
from forebay.streams.intake.ownedsource import OwnedSource

FRESH = SourceMeta("behaviour", 3, "topic-a", 0)
NOW = 1_790_000_000_000
Sent = tuple[int, int]  # hours before now, and an id


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a store."""
    path = Path(tempfile.mkdtemp(prefix="forebay-source-"))
    yield path / "source"
    shutil.rmtree(path)


def _accept(owned: OwnedSource, log: list[Sent], to: int) -> list[bool]:
    """The records of a log from where the source stands to before `to`; record n was appended an hour after n - 1."""
    part = log[owned.meta.offset : to]
    times = np.array([NOW - hours * HOUR_MS for hours, _ in part], np.int64)
    ids = np.array([name for _, name in part], np.int64)
    new = owned.sets.add(times, identities_of(np.full(len(part), 7), times, ids))
    owned.took(to, NOW)
    return new.tolist()


def _reopened(owned: OwnedSource, folder: Path) -> OwnedSource:
    owned.close()
    return OwnedSource.open(folder, FRESH, create=False)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(2, 6)), max_size=60), st.data())
def test_each_event_is_new_once_through_crashes(log: list[Sent], data: st.DataObject) -> None:
    """A crash forgets what was not flushed, its offset included: what is read again is new again, and nothing else."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "source"
        owned = OwnedSource.open(folder, FRESH, create=True)
        verdicts: dict[int, bool] = {}
        while owned.meta.offset < len(log):
            start, to = owned.meta.offset, data.draw(st.integers(owned.meta.offset + 1, len(log)))
            verdicts.update(zip(range(start, to), _accept(owned, log, to), strict=True))
            match data.draw(st.sampled_from(["flush", "crash", "go on", "go on"])):
                case "flush":
                    owned.flush(DAY_MS)
                case "crash":
                    owned = _reopened(owned, folder)
        assert [verdicts[n] for n in range(len(log))] == [log.index(sent) == n for n, sent in enumerate(log)]
        owned.close()


def test_old_hours_leave_the_store_and_memory(folder: Path) -> None:
    """When the log's clock has gone past them; what is left is still counted right."""
    owned = OwnedSource.open(folder, FRESH, create=True)
    log = [(hours, 5) for hours in range(23, -1, -1)]
    for to in range(1, 25):
        _accept(owned, log, to)
        owned.flush(DAY_MS)
    assert len(owned.sets) == 24 and owned.meta.blobs == 24
    owned.took(25, NOW + 10 * HOUR_MS)
    owned.flush(DAY_MS)
    assert len(owned.sets) == owned.meta.blobs == 15  # the hour in which the horizon lies stays whole
    owned = _reopened(owned, folder)
    assert len(owned.sets) == 15 and not any(_accept(owned, [*log, (0, 5), (3, 5)], 26))
    owned.close()


def test_what_was_forgotten_stays_forgotten(folder: Path) -> None:
    """`since` is in the same write as the identities that are left, and never goes back; in a crash it goes back with
    what was dropped since the last flush, and that is known again."""
    owned = OwnedSource.open(folder, FRESH, create=True)
    log = [(hours, 5) for hours in range(9, -1, -1)]
    _accept(owned, log, 10)
    owned.flush(DAY_MS)
    assert owned.sets.since == owned.meta.since == NOW - DAY_MS
    owned.sets.forget(NOW - 4 * HOUR_MS)  # for want of memory, say
    owned = _reopened(owned, folder)
    assert owned.sets.since == owned.meta.since == NOW - DAY_MS and len(owned.sets) == owned.meta.blobs == 10
    owned.sets.forget(NOW - 4 * HOUR_MS)
    owned.flush(DAY_MS)
    for _ in range(2):
        owned = _reopened(owned, folder)
        assert owned.sets.since == owned.meta.since == NOW - 4 * HOUR_MS
        assert len(owned.sets) == owned.meta.blobs == 5  # the hour in which it lies stays whole
        owned.flush(DAY_MS)
    owned.close()


def test_what_it_is_as_of_moves_forward_only(folder: Path) -> None:
    """A record that claims nothing new moves the offset alone."""
    owned = OwnedSource.open(folder, FRESH, create=True)
    for offset, as_of in ((4, NOW), (5, 0), (6, NOW - HOUR_MS)):
        owned.took(offset, as_of)
        assert (owned.meta.offset, owned.meta.as_of, owned.meta.newest_append) == (offset, NOW, NOW)
    owned.advance(6, NOW + HOUR_MS)  # a clock's word moves no append time: nothing is forgotten by it
    assert (owned.meta.as_of, owned.meta.newest_append) == (NOW + HOUR_MS, NOW)
    owned.close()


def test_a_flush_of_nothing_keeps_the_offset(folder: Path) -> None:
    """Refused records move it as well."""
    owned = OwnedSource.open(folder, FRESH, create=True)
    owned.took(9, NOW)
    owned.flush(DAY_MS)
    owned = _reopened(owned, folder)
    assert (owned.meta.offset, owned.meta.as_of) == (9, NOW)
    owned.close()


def test_what_does_not_fit_is_refused_by_name(folder: Path) -> None:
    """Absent, locked, of another topic, and with identities lost or cut."""
    with pytest.raises(StoreMissing):
        OwnedSource.open(folder, FRESH, create=False)
    owned = OwnedSource.open(folder, FRESH, create=True)
    with pytest.raises(StoreLocked):
        OwnedSource.open(folder, FRESH, create=True)
    _accept(owned, [(0, 2), (1, 2)], 2)
    owned.flush(DAY_MS)
    owned.close()
    other = SourceMeta("behaviour", 3, "topic-b", 0)
    with pytest.raises(TopicMismatch, match="deleted and created again"):
        OwnedSource.open(folder, other, create=False)
    for damage in (lambda key, rocks: rocks.delete(key), lambda key, rocks: rocks.put(key, b"half")):
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
        with SourceStore.open(copy, create=False) as store:
            ((hour, _), *_) = store.blobs()
        _damage(copy, b"d" + hour.to_bytes(8, "big") + (2).to_bytes(8, "big"), damage)
        with pytest.raises(StoreCorrupt, match=r"pieces of identities|are no identities"):
            OwnedSource.open(copy, FRESH, create=False)
        shutil.rmtree(copy)


def test_a_census_counts_identities_and_says_up_to_where_the_store_is(folder: Path) -> None:
    """The store lags until the next flush."""
    owned = OwnedSource.open(folder, FRESH, create=True)
    _accept(owned, [(0, 2), (1, 2), (0, 2)], 3)
    census = owned.census()
    assert (census.stored, census.held, census.pending) == (0, {"identities": 2}, {})
    assert census.memory == {"identities": owned.sets.nbytes}
    owned.flush(DAY_MS)
    assert owned.census().stored == 3
    owned = _reopened(owned, folder)
    assert (owned.census().stored, owned.census().held) == (3, {"identities": 2})
    owned.close()


def _damage(folder: Path, key: bytes, damage: object) -> None:
    from rocksdict import WriteBatch

    with Rocks(folder, create=False) as rocks:
        assert rocks.get([key]) != [None]
        batch = WriteBatch(raw_mode=True)
        damage(key, batch)  # type: ignore[operator]
        rocks.write(batch)
