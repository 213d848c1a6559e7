"""The best candidates in one pass over shared rows are those that the plain path finds, in both forms of halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from forebay.arrays import Floats
from forebay.errors import ConfigError, GenerationMismatch
from forebay.segments.fusions.contract import Fusion
from forebay.segments.fusions.layers import Affinity
from forebay.segments.fusions.sums import MaxSim
from forebay.segments.spec import SIDES, FusionSpec
from forebay.segments.state.ids import hash_ids
from forebay.store import kernels
from forebay.store.codec import HELD
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.halfforms import HALF_FORMS, HalfForm, half_form
from forebay.store.sharedcopy import SharedCopy
from forebay.store.tablefiles import TableLimits

from .conftest import NOW, Node
from .fusions import SHAPE, D, affinity, weighted_sum

LIMITS = TableLimits(reserve_rows=1 << 14, reserve_name_bytes=1 << 22, least_extent_bytes=4096)
IDS = [f"i{n}" for n in range(300)]  # of which every third is not known


def _maxsim() -> MaxSim:
    weights = np.array([[1, 0.5], [-0.25, 2]], np.float32)
    return MaxSim(FusionSpec("rank", "maxsim", (), ()), SHAPE, {"weights": weights, "bias": np.full(1, 0.125)})


class Own(Affinity):
    """One's own, with another join: no kernel knows of it."""

    def join(self, query: tuple[Floats, ...], halves: Floats) -> Floats:
        return -super().join(query, halves)


def _own() -> Own:
    plain = affinity()
    return Own(plain.spec, plain.shape, plain._tensors)


FUSIONS: dict[str, Callable[[], Fusion]] = {
    "weighted_sum": lambda: weighted_sum("rank"),
    "affinity": affinity,
    "maxsim": _maxsim,
    "own": _own,
}


@pytest.fixture(params=[(fusion, form) for fusion in FUSIONS for form in HALF_FORMS], ids=str)
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, make_node: Callable[..., Node]
) -> Iterator[tuple[Node, SharedCopy, HalfForm]]:
    kind, form = request.param
    node = make_node(fusion=FUSIONS[kind]())
    parts = (node.model, "g1", node.codecs, dict.fromkeys(SIDES, 4), tmp_path, None, LIMITS)
    feeding, show = FeedingCopy(*parts, halves=form), node.copy.show
    node.copy.show = lambda *rows: (show(*rows), feeding.show(*rows))  # type: ignore[method-assign, assignment, func-returns-value]
    for partition in range(3):
        names = [name for n, name in enumerate(IDS) if n % 3 and n % 4 == partition]
        flags = {"stats": HELD} if partition == 1 else {}
        node.put("item", names, seed=partition, partition=partition, as_of=NOW - 20_000 * partition, flags=flags)
    feeding.write("item", [], [], {0: NOW - 1_000, 1: NOW - 1_000}, {})
    yield node, SharedCopy(*parts[:5], LIMITS, halves=form), form
    feeding.close()


@pytest.mark.parametrize("later", [0, 30_000, 10_000_000], ids=["fresh", "some expired", "all expired"])
def test_one_pass_finds_what_the_plain_path_finds(shared: tuple[Node, SharedCopy, HalfForm], later: int) -> None:
    """Places, scores, times and who is known; unknown ids, forgotten places and boosts among them."""
    node, copy, _ = shared
    fusion, random, now = node.fusion, np.random.default_rng(3), NOW + later
    query, hashes = fusion.user_half(random.normal(size=2 * D).astype("f4")), hash_ids([*IDS, "i7", "i7"])
    for k in (0, 1, 40, 1000):
        for boost in (np.zeros(0, np.float32), random.normal(size=len(hashes)).astype("f4")):
            with copy.read("item", hashes) as passed, copy.read("item", hashes) as plain:
                for reading in (passed, plain):
                    reading.forget(np.array([4, 8]))
                scores = plain.scores(fusion, query, now)
                _, values = kernels.best_of(scores, k, None, boost)
                best, got = passed.best(fusion, query, now, k, None, boost)
                near = 1e-5 * (1 + float(np.abs(values).max(initial=0)))
                np.testing.assert_allclose(got, values, rtol=0, atol=near)
                # Equal scores stand in the order of the candidates: the unknown ones among them do.
                whole = scores + boost if len(boost) else scores
                assert (np.abs(whole[best] - values) <= near).all() and len(set(best.tolist())) == len(best)
                assert (passed.weakest(best) == plain.weakest(best)).all()
                assert (passed.found == plain.found).all()
                assert passed.names(best) == plain.names(best)


def test_halves_as_int8_are_near(shared: tuple[Node, SharedCopy, HalfForm]) -> None:
    """A score moves by as much as half a step of each number does; codes that were int8 already do not move at all."""
    node, copy, form = shared
    if node.fusion.kind == "weighted_sum":
        pytest.skip("it keeps no halves")
    names = [name for n, name in enumerate(IDS) if n % 3 and n % 4 < 3]
    user = np.random.default_rng(5).normal(size=2 * D).astype("f4")
    query = node.fusion.user_half(user)
    with copy.read("item", hash_ids(names)) as items:
        scores = items.scores(node.fusion, query, NOW)
    exact = node.fusion.join(query, node.fusion.item_half(node.vectors("item", names)))
    spread = float(exact.max() - exact.min())
    assert np.abs(scores - exact).max() <= (0.02 if form == "int8" else 0.002) * spread
    if form == "int8" and node.fusion.kind != "maxsim":
        assert np.abs(scores - exact).max() > 0  # the other form is another one


def test_a_form_that_there_is_not_is_named() -> None:
    assert [half_form(form) for form in HALF_FORMS] == list(HALF_FORMS)
    with pytest.raises(ConfigError, match="int4"):
        half_form("int4")


def test_tables_with_halves_in_another_form_are_refused(
    shared: tuple[Node, SharedCopy, HalfForm], tmp_path: Path
) -> None:
    node, _, form = shared
    other: HalfForm = "f16" if form == "int8" else "int8"
    parts = (node.model, "g1", node.codecs, dict.fromkeys(SIDES, 4), tmp_path, LIMITS)
    if node.fusion.kind == "weighted_sum":
        SharedCopy(*parts, halves=other)
        return
    with pytest.raises(GenerationMismatch):
        SharedCopy(*parts, halves=other)
