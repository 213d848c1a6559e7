"""Top-k that leaves out what bounds say cannot matter finds what the full pass finds, whatever the items are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import progressive
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentbounds import (
    KINDS,
    Balls,
    Bounds,
    Kind,
    bounds_of_affinity,
    bounds_of_sum,
    foretold,
    part_by_part,
    row_by_row,
    whole,
)
from trained import Trained, spec_of

from forebay.arrays import Floats, Ints
from forebay.segments.fusions.contract import Part, Shape
from forebay.segments.fusions.layers import Affinity
from forebay.segments.fusions.sums import WeightedSum
from forebay.segments.spec import SIDES, FusionSpec
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained

# The third segment of an item is not read, and the last part is met by one user part alone.
USER = (Part(0, 0, 6), Part(1, 6, 12), Part(2, 12, 15))
ITEM = (Part(0, 0, 6), Part(1, 6, 12), Part(3, 16, 19))
SHAPE = Shape(USER, ITEM, 15, 19, 3)
PARTS = 3

Asked = Callable[[Floats, Floats, Ints, Kind], Bounds]  # by a user, items and rows


def _sum(random: np.random.Generator) -> Asked:
    tensors = {"weights": random.normal(size=(3, 3)).astype("f4"), "bias": random.normal(size=1).astype("f4")}
    fusion = WeightedSum(FusionSpec("rank", "weighted_sum", (), ()), SHAPE, tensors)
    return lambda user, items, rows, kind: bounds_of_sum(fusion, user, items, Balls.around(ITEM, items, kind), rows)


def _affinity(random: np.random.Generator) -> Asked:
    shapes = {"weights": (3, 3), "bias": (1,), "user.weight": (5, 15), "user.bias": (5,), "item.weight": (5, 15)}
    shapes |= {"pairs.weight": (5, len(SHAPE.pairs)), "out.weight": (1, 5)}
    tensors = {name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    fusion = Affinity(FusionSpec("rank", "affinity", (), ()), SHAPE, tensors)

    def asked(user: Floats, items: Floats, rows: Ints, kind: Kind) -> Bounds:
        halves = fusion.item_half(items)
        return bounds_of_affinity(fusion, user, halves, Balls.around(SHAPE.packed.item, halves[:, 5:], kind), rows)

    return asked


MADE = {"sum": _sum, "affinity": _affinity}


@pytest.mark.parametrize("fusion", MADE)
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), k=st.integers(0, 45), kind=st.sampled_from(KINDS),
    form=st.sampled_from(["normal", "few values", "one part large", "nearly equal", "huge"]),
)  # fmt: skip
def test_each_pass_finds_what_the_full_one_finds(fusion: str, seed: int, n: int, k: int, kind: Kind, form: str) -> None:
    """Ties included, and in any size of numbers. A score lies between its bounds, which only come nearer."""
    random = np.random.default_rng(seed)
    items = random.normal(size=(50, 19)).astype("f4")
    if form == "few values":
        items = np.rint(items).astype("f4")
    elif form == "one part large":
        items[:, 6:12] *= 100
    elif form == "nearly equal":
        items = (items[0] + 1e-6 * items).astype("f4")
    elif form == "huge":
        items *= np.float32(1e15)
    rows = random.integers(0, 50, n)  # some come twice
    bounds = MADE[fusion](random)(random.normal(size=15).astype("f4"), items, rows, kind)
    scores = bounds.upper[:, -1]
    assert (bounds.lower <= scores[:, None]).all() and (scores[:, None] <= bounds.upper).all()
    right = whole(scores, k).tolist()
    for each in (row_by_row, part_by_part):
        best, read = each(bounds, k)
        assert best.tolist() == right
        assert (read[best] == PARTS).all() and (read >= 0).all() and (read <= PARTS).all()
    assert (foretold(bounds, k)[right] == PARTS).all()


@pytest.mark.parametrize("fusion", MADE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_items_that_are_not_finite_are_read_whole_and_spare_nobody(fusion: str, kind: Kind, bad: float) -> None:
    """A bound that is no number says nothing. NaN counts as lowest, as in every top-k here."""
    random = np.random.default_rng(1)
    items = random.normal(size=(30, 19)).astype("f4")
    items[7, 8] = items[21, 2] = bad
    with np.errstate(invalid="ignore"):
        bounds = MADE[fusion](random)(random.normal(size=15).astype("f4"), items, np.arange(30), kind)
        for k in (1, 5, 29, 30):
            for each in (row_by_row, part_by_part):
                best, read = each(bounds, k)
                assert best.tolist() == whole(bounds.upper[:, -1], k).tolist()
                assert read[7] == read[21] == PARTS
                assert (read[best] == PARTS).all()


@pytest.mark.parametrize("fusion", MADE)
def test_what_cannot_be_among_the_best_is_left_where_one_part_decides(fusion: str) -> None:
    """Own radii spare at least what the largest one does, and to know the k-th best beforehand spares most."""
    random = np.random.default_rng(2)
    items = random.normal(size=(400, 19)).astype("f4")
    items[:, 6:12] *= 30
    asked, user = MADE[fusion](random), random.normal(size=15).astype("f4")
    spared = {}
    for kind in KINDS:
        bounds = asked(user, items, np.arange(400), kind)
        assert bounds.order[0] == 1, "the worthiest part comes first"
        spared[kind] = [PARTS * 400 - int(read.sum()) for read in (row_by_row(bounds, 5)[1], foretold(bounds, 5))]
    assert 0 < spared["largest"][0] <= spared["own"][0] <= spared["own"][1] < PARTS * 400


def test_candidates_that_get_better_and_better_are_all_read() -> None:
    """The worst order for a pass, and what it finds is right."""
    random = np.random.default_rng(3)
    items = np.zeros((60, 19), np.float32)
    items[:, :6] = np.arange(60, dtype=np.float32)[:, None]
    bounds = _sum(random)(np.ones(15, np.float32), items, np.arange(60), "largest")
    rows = np.argsort(bounds.upper[:, -1], kind="stable")
    rising = Bounds(bounds.order, bounds.lower[rows], bounds.upper[rows])
    best, read = row_by_row(rising, 4)
    assert best.tolist() == [59, 58, 57, 56]
    assert (read[-4:] == PARTS).all()


def test_lines_are_counted_once() -> None:
    """Parts that share a cache line with what was read touch none of their own."""
    assert progressive.lines_of([range(64)]) == 1
    assert progressive.lines_of([range(65)]) == 2
    assert progressive.lines_of([range(60), range(60, 64), range(130, 190)]) == 2
    assert progressive.lines_of([range(63, 65)]) == 2


def test_the_benchmark_and_its_kernels_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a model that nobody trained: it asserts within that each pass has the answers of the one that is served."""
    monkeypatch.setattr(progressive, "CANDIDATES", 120)
    monkeypatch.setattr(progressive, "BEST", (1, 30))
    random = np.random.default_rng(6)
    for fusion in ("weighted_sum", "affinity"):
        bundle = untrained(spec_of(fusion), hash_ids([f"i{n}" for n in range(50)]))
        dims = {side: sum(s.dim for s in bundle.spec.side(side)) for side in SIDES}
        model = Trained(
            bundle,
            {side: random.integers(-127, 128, (150, dims[side])).astype(np.int8) for side in SIDES},
            {side: random.random((150, len(bundle.spec.side(side))), np.float32) for side in SIDES},
        )
        lines = list(progressive.spared(model, 3))
        assert {(line["use"], line["bound"], line["of"], line["k"]) for line in lines} >= {
            ("rank", kind, of, k) for kind in KINDS for of in (120, 150) for k in (1, 30)
        }
        assert all(0 <= line["row by row"] <= 1 and line["lines a row"] >= 1 for line in lines)
        if fusion == "weighted_sum":
            timed = list(progressive.timed(model, 300, 3, 1, tmp_path))
            assert {(line["kind"], line["use"]) for line in timed} == {
                (kind, use) for kind in ("pass", "scan") for use in ("rank", "retrieve")
            }
            assert all(line["served, µs"] > 0 for line in timed)
