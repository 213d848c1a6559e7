"""Lookups: exact scores, and never more freshness than there is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forebay.arrays import Floats
from forebay.errors import BadRequest, BundleError, GenerationMismatch, GenerationUnavailable
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, RetrieveRequest
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import DEFAULT, HELD
from forebay.store.servingcopy import ServingCopy

from .fusions import SHAPE, D, affinity, weighted_sum

ITEMS = [f"i{n}" for n in range(30)]
MINUTE = 60_000


def test_scores_are_the_fusions_own(node: Any) -> None:
    """The fused kernel over int8 rows scores as the fusion over dequantised vectors, bias included, best first."""
    answer = node.engine.rank(RankRequest("u", ITEMS, k=10))
    expected = dict(
        zip(ITEMS, node.scores(node.vectors("user", ["u"])[0], node.vectors("item", ITEMS)).tolist(), strict=True)
    )
    assert [hit.item for hit in answer] == sorted(ITEMS, key=lambda item: -expected[item])[:10]
    for hit in answer:
        assert hit.known and hit.score == pytest.approx(expected[hit.item], rel=1e-5, abs=1e-5)
    assert (answer.generation, answer.bundle, answer.user_known) == ("g1", "b" * 64, True)


def test_a_fusion_that_does_not_fold_scores_by_kept_halves(make_node: Callable[..., Any]) -> None:
    """The scores are the fusion's own over what the table holds: when halves are first made, when they are found again,
    after a row was written anew, after the table grew, and when a segment has expired."""
    node = make_node(fusion=affinity())
    node.put("item", ITEMS, seed=1)
    node.put("user", ["u"], seed=2)
    names = [*ITEMS, "unknown"]

    def check(items: Floats, user: Floats) -> None:
        hits = node.engine.rank(RankRequest("u", names, k=40))
        expected = dict(zip(names, node.fusion.scores(user, items).tolist(), strict=True))
        assert {hit.item: hit.score for hit in hits} == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert [hit.item for hit in hits] == sorted(names, key=lambda name: -expected[name])

    user = node.vectors("user", ["u"])[0]
    for _ in range(2):
        check(node.vectors("item", names), user)
    node.put("item", ["i3", "i7"], seed=9)
    check(node.vectors("item", names), user)
    node.put("item", [f"more{n}" for n in range(200)], seed=4)
    check(node.vectors("item", names), user)
    node.tables["item"].delete(["i5"])
    node.put("item", ["new"], seed=6)
    names[5] = "new"
    check(node.vectors("item", names), user)
    node.now_ms += 2 * MINUTE
    node.put("item", ["i4"], seed=5, as_of=node.now_ms)
    items, written = node.vectors("item", names), names.index("i4")
    stats = slice(D, 2 * D)  # the item segment that expires; the user's first one does too
    kept = items[written].copy()
    items[:, stats] = node.defaults["item"][stats]
    items[written] = kept
    user[:D] = node.defaults["user"][:D]
    check(items, user)


def test_an_item_scores_the_same_to_the_bit_whenever_its_half_was_made(make_node: Callable[..., Any]) -> None:
    """All at once after a restart, or a few at a time as they were asked for."""
    nodes = [make_node(fusion=affinity()) for _ in range(2)]
    names = [f"i{n}" for n in range(300)]
    for node in nodes:
        node.put("item", names, seed=1)
        node.put("user", ["u"], seed=2)
    for start, count in ((0, 1), (1, 5), (6, 60), (66, 129)):
        nodes[0].engine.rank(RankRequest("u", names[start : start + count], k=1))
    first, second = ({hit.item: hit.score for hit in n.engine.rank(RankRequest("u", names, k=300))} for n in nodes)
    assert first == second


def test_retrieval_is_by_its_own_fusion(make_node: Callable[..., Any]) -> None:
    """What is chosen next and what is liked are two questions: the index is searched with the one, candidates get the
    other."""
    node = make_node(fusion=affinity())
    node.put("item", ITEMS, seed=1)
    node.put("user", ["u"], seed=2)
    expected = weighted_sum("retrieve").scores(node.vectors("user", ["u"])[0], node.vectors("item", ITEMS))
    answer = node.engine.retrieve(RetrieveRequest("u", k=30))
    assert [hit.item for hit in answer] == [ITEMS[i] for i in np.argsort(-expected, kind="stable")]
    assert [hit.score for hit in answer] == pytest.approx(sorted(expected.tolist(), reverse=True), rel=1e-4, abs=1e-5)


def test_an_index_needs_a_fusion_that_folds(node: Any) -> None:
    """Refused when the engine is put together, not at the first retrieval."""
    model = replace(node.model, fusions={"rank": affinity(), "retrieve": affinity()})
    with pytest.raises(BundleError, match="affinity"):
        Engine(model, ServingCopy(model, "g1", node.codecs, {"user": 4, "item": 4}))


def test_an_unknown_user_and_unknown_items_get_default_vectors(node: Any) -> None:
    """And the answer says so."""
    answer = node.engine.rank(RankRequest("nobody", ["i1", "nothing"], k=2))
    assert not answer.user_known
    assert {hit.item: hit.known for hit in answer} == {"i1": True, "nothing": False}
    assert {name: s.state for name, s in answer.segments.items()} == {"recent": "missing", "taste": "missing"}
    assert answer.segments["recent"].as_of is None and answer.segments["recent"].last_event is None
    assert answer.item_segments["content"].state == "missing"
    expected = node.scores(node.defaults["user"], node.vectors("item", ["i1", "nothing"]))
    assert {hit.item: hit.score for hit in answer} == pytest.approx(
        dict(zip(["i1", "nothing"], expected.tolist(), strict=True)), rel=1e-5
    )


def test_a_candidate_is_never_scored_with_its_hash_twins_vector(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown id whose hash is a known item's is unknown, however well that item would have scored."""
    best, *_ = node.engine.rank(RankRequest("u", ITEMS, 1)).hits
    expected = node.engine.rank(RankRequest("u", ["nothing", *ITEMS], 40))
    monkeypatch.setattr(
        "forebay.retrieval.engine.hash_ids", lambda ids: hash_ids([best.item if i == "nothing" else i for i in ids])
    )
    assert node.engine.rank(RankRequest("u", ["nothing", *ITEMS], 40)) == expected
    assert not node.engine.entity("item", "nothing").known


@pytest.mark.parametrize(
    ("age", "state"),
    [(0, "fresh"), (10_000, "fresh"), (10_001, "late"), (60_000, "late"), (60_001, "expired")],
)
def test_the_state_follows_the_age_of_as_of(node: Any, age: int, state: str) -> None:
    """At the bounds and one millisecond past them."""
    node.now_ms += age
    segment = node.engine.rank(RankRequest("u", ["i1"])).segments["recent"]
    assert (segment.state, segment.as_of, segment.last_event) == (state, node.now_ms - age, node.now_ms - age - 5)
    assert segment.age_ms(node.now_ms) == age


def test_an_expired_user_vector_is_not_used(node: Any) -> None:
    """Law 5: past its end the segment scores as the default one does; the segment without an end goes on."""
    node.now_ms += 60_001
    answer = node.engine.rank(RankRequest("u", ["nothing"]))
    user = node.vectors("user", ["u"])[0]
    user[:D] = node.defaults["user"][:D]
    assert answer.hits[0].score == pytest.approx(node.scores(user, node.defaults["item"][None])[0], rel=1e-5)
    assert {name: s.state for name, s in answer.segments.items()} == {"recent": "expired", "taste": "late"}


def test_an_expired_item_vector_is_not_used(node: Any) -> None:
    """Law 5, for one old item among current ones; the answer's weakest link shows it."""
    node.put("item", ["old"], as_of=node.now_ms - 60_001, last_event=7, seed=9)
    answer = node.engine.rank(RankRequest("u", ["i1", "old"]))
    items = node.vectors("item", ["i1", "old"])
    items[1, D:] = node.defaults["item"][D:]
    expected = node.scores(node.vectors("user", ["u"])[0], items)
    assert {hit.item: hit.score for hit in answer} == pytest.approx(
        dict(zip(["i1", "old"], expected.tolist(), strict=True)), rel=1e-5, abs=1e-6
    )
    content, stats = answer.item_segments["content"], answer.item_segments["stats"]
    assert (content.state, stats.state) == ("late", "expired")
    assert (stats.as_of, stats.last_event) == (node.now_ms - 60_001, 7)
    assert node.engine.rank(RankRequest("u", ["i1"])).item_segments["stats"].state == "fresh"


def test_a_watermark_keeps_an_idle_entity_fresh(node: Any) -> None:
    """Nothing happened to it, and everything up to the watermark has been applied: its vector is current."""
    node.now_ms += 2 * MINUTE
    node.tables["user"].advance(0, node.now_ms - 3)
    node.tables["user"].advance(1, node.now_ms)  # another partition's says nothing about this user
    segment = node.engine.rank(RankRequest("u", ["i1"])).segments["recent"]
    assert (segment.state, segment.as_of) == ("fresh", node.now_ms - 3)


def test_a_held_segment_is_not_carried_on(node: Any) -> None:
    """Law 5: an event waits to be encoded, so the watermark must not make the old vector look new."""
    node.put("user", ["u"], flags={"recent": HELD}, seed=2)
    node.now_ms += 2 * MINUTE
    node.tables["user"].advance(0, node.now_ms)
    answer = node.engine.rank(RankRequest("u", ["i1"]))
    assert {name: s.state for name, s in answer.segments.items()} == {"recent": "expired", "taste": "fresh"}


def test_a_default_vector_in_a_row_is_called_missing(node: Any) -> None:
    """The row is there, but nothing was known of this segment."""
    node.put("user", ["new"], flags={"recent": DEFAULT}, last_event=0)
    answer = node.engine.rank(RankRequest("new", ["i1"]))
    assert answer.user_known
    assert {name: s.state for name, s in answer.segments.items()} == {"recent": "missing", "taste": "fresh"}
    assert answer.segments["recent"].last_event is None


def test_a_row_without_an_as_of_is_never_used(node: Any) -> None:
    """Also for a segment that has no expiry: 0 is not a time."""
    node.put("item", ["blank"], as_of=0, last_event=0)
    hit = node.engine.rank(RankRequest("u", ["blank"]))
    expected = node.scores(node.vectors("user", ["u"])[0], node.defaults["item"][None])
    assert hit.hits[0].score == pytest.approx(expected[0], rel=1e-5)
    assert hit.item_segments["content"].state == "missing"


def test_explained_shares_sum_to_the_score(node: Any) -> None:
    """Less the bias; one share for each user segment."""
    for answer in (
        node.engine.rank(RankRequest("u", ["i1", "nothing"], explain=True)),
        node.engine.retrieve(RetrieveRequest("u", 5, explain=True)),
    ):
        for hit in answer:
            assert hit.shares is not None and list(hit.shares) == ["recent", "taste"]
            assert sum(hit.shares.values()) + node.fusion.bias == pytest.approx(hit.score, rel=1e-4, abs=1e-5)


def test_retrieve_is_rank_over_all_items(node: Any) -> None:
    """The same items in the same order with the same scores, denied ones left out."""
    deny = ["i3", "i4", "unknown"]
    ranked = node.engine.rank(RankRequest("u", [i for i in ITEMS if i not in deny], k=7))
    found = node.engine.retrieve(RetrieveRequest("u", 7, deny))
    assert found.hits == ranked.hits
    everything = node.engine.retrieve(RetrieveRequest("u", 1000, deny))
    assert len(everything) == 28


def test_retrieve_returns_no_removed_item(node: Any) -> None:
    """Law 7: an item that was deleted from the table is not named, even before the index has heard of it."""
    best = node.engine.retrieve(RetrieveRequest("u", 1)).hits[0].item
    node.tables["item"].delete([best])
    assert best not in [hit.item for hit in node.engine.retrieve(RetrieveRequest("u", 1000))]


def test_another_generation_is_refused_not_substituted(node: Any) -> None:
    """Law 4: a caller that names a generation gets that one or a typed error."""
    assert node.engine.rank(RankRequest("u", ["i1"], generation="g1")).generation == "g1"
    for call in (
        lambda: node.engine.rank(RankRequest("u", ["i1"], generation="g2")),
        lambda: node.engine.retrieve(RetrieveRequest("u", generation="g2")),
        lambda: node.engine.entity("user", "u", generation="g2"),
    ):
        with pytest.raises(GenerationUnavailable):
            call()


def test_parts_that_do_not_fit_are_refused(node: Any) -> None:
    """Law 4, when the engine is put together."""
    with pytest.raises(GenerationMismatch, match="is of bundle"):
        Engine(replace(node.model, hash="c" * 64), node.copy)

    def refused(error: type[Exception], **changed: Any) -> None:
        with pytest.raises(error):
            ServingCopy(replace(node.model, **changed), "g1", node.codecs, {"user": 4, "item": 4})

    refused(GenerationMismatch, specs={**node.specs, "user": node.specs["user"][::-1]})
    refused(BundleError, vectors={**node.defaults, "user": node.defaults["user"][:1]})
    narrow = SimpleNamespace(shape=replace(SHAPE, item_dim=D))
    refused(BundleError, fusions={**node.model.fusions, "rank": narrow})


def test_requests_beyond_the_limits_are_refused_before_any_work(node: Any) -> None:
    """Too much, too little, and an id that is no text."""
    for call in (
        lambda: node.engine.rank(RankRequest("u", ["i1"] * 5001)),
        lambda: node.engine.rank(RankRequest("u", ["i1"], k=1001)),
        lambda: node.engine.rank(RankRequest("u", ["i1"], k=-1)),
        lambda: node.engine.retrieve(RetrieveRequest("u", k=1001)),
        lambda: node.engine.retrieve(RetrieveRequest("u", deny=["i1"] * 101)),
        lambda: node.engine.rank(RankRequest("u\ud800", ["i1"])),
        lambda: node.engine.rank(RankRequest("u", ["i\ud800"])),
    ):
        with pytest.raises(BadRequest):
            call()


def test_nothing_asked_is_nothing_answered(node: Any, make_node: Callable[..., Any]) -> None:
    """No candidates, k = 0, and a node that holds nothing yet."""
    assert len(node.engine.rank(RankRequest("u", []))) == 0
    assert len(node.engine.rank(RankRequest("u", ["i1"], k=0))) == 0
    assert len(node.engine.retrieve(RetrieveRequest("u", k=0))) == 0
    empty = make_node().engine
    assert len(empty.retrieve(RetrieveRequest("u"))) == 0
    assert len(empty.rank(RankRequest("u", ["a"]))) == 1


def test_an_entity_shows_the_stored_bytes(node: Any) -> None:
    """Codes and scale as the encoder wrote them, so that bit-equality with a backfill can be checked."""
    entry = node.engine.entity("user", "u", vectors=True)
    (row,) = node.tables["user"].find(["u"])
    assert entry.known and entry.partition == 0
    assert entry.segments["taste"].codes == node.tables["user"].vectors[row, 8:].tobytes()
    assert entry.segments["taste"].scale == node.tables["user"].scales[row, 1]
    assert node.engine.entity("user", "u").segments["taste"].codes is None
    assert not node.engine.entity("item", "u").known and node.engine.entity("item", "u").segments == {}


def test_lookups_beside_a_writer_never_mix_entities(node: Any) -> None:
    """Items that are rewritten, deleted and replaced while they are ranked always score as one of their own
    versions."""
    node.put("user", ["u"], as_of=node.now_ms)
    names = [f"x{n}" for n in range(8)]
    user, allowed = node.vectors("user", ["u"])[0], {}
    for seed in range(4):
        node.put("item", names, seed=seed)
        for name, score in zip(names, node.scores(user, node.vectors("item", names)).tolist(), strict=True):
            allowed.setdefault(name, []).append(score)
    default = float(node.scores(user, node.defaults["item"][None])[0])
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            node.put("item", names, seed=turn % 4)
            gone = names[turn % 8 :: 3]
            node.index.remove(node.tables["item"].delete(gone))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(400):
            if turn % 2:
                answer = node.engine.rank(RankRequest("u", names, 8))
            else:
                answer = node.engine.retrieve(RetrieveRequest("u", 8, deny=ITEMS))
            for hit in answer:
                versions = allowed[hit.item] if hit.known else [default]
                assert any(hit.score == pytest.approx(score, rel=1e-4, abs=1e-5) for score in versions), hit
    finally:
        stop.set()
        writer.join()
