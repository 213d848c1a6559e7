"""Read-outs that are kept in less memory come back as they were read."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.segments.spec import SegmentSpec
from forebay.segments.state.kept import CHUNK, Kept, ReadLists
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import Inputs, SegmentReader, Vocabulary

from .. import models

SPECS = {name: models.spec(name) for name in ("nasty", "own")}  # the second with attributes of events in a list


def _equal(kept: Inputs, read: Inputs) -> None:
    for name in ("dense", "sequence", "items", "length", "own"):
        one, other = getattr(kept, name), getattr(read, name)
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name


@pytest.mark.parametrize(
    ("spec", "segment"),
    [(n, s) for n, spec in SPECS.items() for s in spec.segments],
    ids=lambda p: getattr(p, "title", p),
)
def test_what_is_kept_comes_back_to_the_bit(spec: str, segment: SegmentSpec) -> None:
    """Every kind of feature, more rows than are read at once, any numbers in the state; a third of the bytes for a list
    of sets."""
    layout, random = Layout.of(SPECS[spec], segment.side), np.random.default_rng(0)
    rows = random.integers(0, 1 << 40, (CHUNK + 100, layout.width)) >> random.integers(0, 40, (CHUNK + 100, 1))
    for block in layout.blocks:
        if block.feature.kind == "last":
            rows[:, block.offset] = random.integers(0, block.feature.size + 1, len(rows))
            rows[:, block.offset + 1 : block.offset + block.size : block.stride].sort(axis=1)
    hashes = random.integers(0, 50, len(rows))
    reader = SegmentReader(SPECS[spec], segment, layout, Vocabulary.of(np.arange(30)))
    read, kept = reader.read(rows, hashes), Kept.read(reader, rows, hashes)
    some = random.permutation(len(rows))[:300]
    _equal(kept.take(some), read.take(some))
    _equal(kept.take(slice(CHUNK - 5, CHUNK + 5)), read.take(slice(CHUNK - 5, CHUNK + 5)))
    _equal(kept.subset(some).take(np.arange(10)), read.take(some[:10]))
    assert len(kept) == len(read)


def test_a_list_of_sets_takes_a_third_of_the_memory() -> None:
    """The built-in spec's: 19 of 21 columns are genres."""
    spec = models.spec("movielens")
    segment = next(s for s in spec.segments if s.title == "user.recent")
    reader = SegmentReader(spec, segment, Layout.of(spec, "user"), Vocabulary.of(np.arange(30)))
    kept = Kept.read(reader, np.zeros((10, Layout.of(spec, "user").width), np.int64), np.zeros(10, np.int64))
    taken = kept.take(slice(None))
    assert isinstance(kept.lists, ReadLists)
    assert 3 * (kept.lists.bits.nbytes + kept.lists.numbers.nbytes) < taken.sequence.nbytes
