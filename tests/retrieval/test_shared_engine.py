"""An engine over the rows that another process writes answers as one over its own does, and each answer is honest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.arrays import Ints
from forebay.errors import GenerationMismatch, StoreError
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, RankResponse, RetrieveRequest
from forebay.segments.fusions.contract import Fusion
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_id, hash_ids
from forebay.store.codec import HELD
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.sharedcopy import SharedCopy
from forebay.store.tablefiles import TableLimits

from .conftest import NOW, Node
from .fusions import affinity, weighted_sum

LIMITS = TableLimits(reserve_rows=1 << 14, reserve_name_bytes=1 << 22, least_extent_bytes=4096)


class Pair:
    """The same rows in a node of one process, and in shared tables."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.folder = node, folder
        parts = (node.model, "g1", node.codecs, dict.fromkeys(SIDES, 4), folder)
        self.feeding, self.copy = FeedingCopy(*parts, limits=LIMITS), SharedCopy(*parts, limits=LIMITS)
        self.shared = Engine(node.model, self.copy, clock=lambda: node.now_ms / 1000, limits=node.engine.limits)
        kept, show = node.copy, node.copy.show

        def both(side: Side, ids: list[str], rows: Any, partitions: list[int]) -> None:
            show(side, ids, rows, partitions)
            self.feeding.show(side, ids, rows, partitions)

        kept.show = both  # type: ignore[method-assign]

    def write(self, side: Side, gone: Sequence[str], marks: dict[int, int]) -> None:
        for copy in (self.node.copy, self.feeding):
            copy.write(side, [], gone, marks, {})

    def answers(self, ask: Callable[[Engine], RankResponse], close: float) -> RankResponse:
        """One answer, after both have been found equal: scores to `close` of their size, all else exactly."""
        mine, theirs = ask(self.node.engine), ask(self.shared)
        assert _beside_hits(mine) == _beside_hits(theirs)
        scale = max([1.0, *(abs(hit.score) for hit in mine.hits)])
        by_item = {hit.item: hit for hit in theirs.hits}
        assert len(by_item) == len(mine.hits)
        for hit in mine.hits:
            other = by_item[hit.item]
            assert abs(other.score - hit.score) <= close * scale and other.known == hit.known
            assert (hit.shares is None) == (other.shares is None)
            for name, share in (hit.shares or {}).items():
                assert other.shares is not None and abs(other.shares[name] - share) <= close * scale
        return theirs


def _beside_hits(answer: RankResponse) -> Any:
    """All of an answer but its hits."""
    return msgspec.structs.replace(answer, hits=[])


@pytest.fixture(params=[weighted_sum, lambda use: affinity()], ids=["folds", "keeps halves"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, make_node: Callable[..., Node]) -> Iterator[Pair]:
    """Thirty items, two users, on three partitions."""
    fusion: Fusion = request.param("rank")
    made = Pair(make_node(fusion=fusion), tmp_path)
    for partition in range(3):
        names = [f"i{n}" for n in range(partition, 30, 3)]
        made.node.put("item", names, seed=partition, partition=partition, as_of=NOW - 9_000 * partition)
    made.node.put("user", ["u"], seed=7)
    made.node.put("user", ["late"], seed=8, as_of=NOW - 50_000, flags={"recent": HELD})
    yield made
    made.feeding.close()


def _close(pair: Pair) -> float:
    return 1e-5 if pair.node.fusion.kind == "weighted_sum" else 4e-3  # halves are float16


def test_rank_answers_alike(pair: Pair) -> None:
    """Known and unknown items, users too, and what is expired or comes with a watermark."""
    candidates = [f"i{n}" for n in range(45)]
    for user in ("u", "late", "nobody"):
        for later in (0, 55_000, 10_000_000):
            pair.node.now_ms = NOW + later
            request = RankRequest(user, candidates, 45, explain=True)
            pair.answers(lambda engine, request=request: engine.rank(request), _close(pair))  # type: ignore[misc]
        pair.write("item", [], {0: NOW + 20_000, 1: NOW + 1_000})
        pair.write("user", [], {0: NOW + 30_000})
    answer = pair.answers(lambda engine: engine.rank(RankRequest("u", candidates, 5)), _close(pair))
    assert answer.user_known and len(answer.hits) == 5


def test_retrieve_answers_alike(pair: Pair) -> None:
    """The same items in the same order, without the denied ones and those that are gone."""
    for user in ("u", "late", "nobody"):
        request = RetrieveRequest(user, 12, deny=["i3", "i4", "no such"], explain=True)
        answer = pair.answers(lambda engine, request=request: engine.retrieve(request), 1e-5)  # type: ignore[misc]
        assert len(answer.hits) == 12 and not {"i3", "i4"} & {hit.item for hit in answer.hits}
    best = answer.hits[0].item
    pair.write("item", [best], {})
    answer = pair.answers(lambda engine: engine.retrieve(RetrieveRequest("u", 100)), 1e-5)
    assert len(answer.hits) == 29 and best not in {hit.item for hit in answer.hits}


def test_entities_are_told_alike(pair: Pair) -> None:
    for side, entity in (("user", "u"), ("user", "nobody"), ("item", "i7"), ("item", "nothing")):
        told = [engine.entity(side, entity, vectors=True) for engine in (pair.node.engine, pair.shared)]  # type: ignore[arg-type]
        assert told[0] == told[1]


def test_a_row_that_goes_between_its_score_and_its_name_is_not_known(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered under an id is that id's, or the default."""
    reader = pair.copy._readers["item"]
    plain, request = reader.strangers, RankRequest("u", ["i1", "i2"], 2)
    before = {hit.item: hit for hit in pair.shared.rank(request).hits}

    def gone(*asked: Any) -> Ints:
        pair.feeding.hide("item", ["i1"])
        pair.node.put("item", ["another"], seed=99)  # in the row that was i1's
        return plain(*asked)

    monkeypatch.setattr(reader, "strangers", gone)
    after = {hit.item: hit for hit in pair.shared.rank(request).hits}
    unknown = pair.shared.rank(RankRequest("u", ["nothing"], 1)).hits[0]
    assert before["i1"].known and not after["i1"].known and after["i1"].score == pytest.approx(unknown.score)
    assert after["i2"] == before["i2"]


def test_tables_of_another_model_are_refused(pair: Pair, tmp_path: Path) -> None:
    """Law 4; and so are tables that are not there."""
    codecs, partitions = pair.node.codecs, dict.fromkeys(SIDES, 4)
    with pytest.raises(GenerationMismatch):
        SharedCopy(replace(pair.node.model, hash="c" * 64), "g1", codecs, partitions, tmp_path, LIMITS)
    with pytest.raises(GenerationMismatch):
        SharedCopy(pair.node.model, "g2", codecs, partitions, tmp_path, LIMITS)
    with pytest.raises(StoreError, match="there is no table"):
        SharedCopy(pair.node.model, "g1", codecs, partitions, tmp_path / "elsewhere", LIMITS)


def test_no_half_is_computed_for_a_request(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was written with its row."""
    fusion = pair.node.fusion
    monkeypatch.setattr(type(fusion), "item_half", lambda *_: pytest.fail("a half was computed"))
    answer = pair.shared.rank(RankRequest("u", [f"i{n}" for n in range(30)], 30))
    assert len(answer.hits) == 30 and np.isfinite([hit.score for hit in answer.hits]).all()


def test_an_id_whose_hash_is_anothers_is_not_answered_with_its_vector(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that was found says whose it is."""
    monkeypatch.setattr(
        "forebay.retrieval.engine.hash_ids", lambda ids: hash_ids(["i2" if i == "its twin" else i for i in ids])
    )
    request = RankRequest("u", ["i1", "its twin", "i2", "nothing"], 4)
    answer = {hit.item: hit for hit in pair.shared.rank(request).hits}
    assert answer["i1"].known and answer["i2"].known and not answer["its twin"].known
    assert answer["its twin"].score == answer["nothing"].score != answer["i2"].score


def test_a_user_whose_hash_is_anothers_is_not_known(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is that of a user nobody knows, whatever is stored of the other one."""
    items = [f"i{n}" for n in range(30)]
    nobody = pair.answers(lambda engine: engine.rank(RankRequest("nobody", items, 30)), 2e-3)
    known = pair.answers(lambda engine: engine.rank(RankRequest("late", items, 30)), 2e-3)
    monkeypatch.setattr(
        "forebay.retrieval.engine.hash_id", lambda entity: hash_id("late" if entity == "its twin" else entity)
    )
    twin = pair.answers(lambda engine: engine.rank(RankRequest("its twin", items, 30)), 2e-3)
    assert twin == nobody and not twin.user_known and known.user_known and known.hits != nobody.hits


@pytest.mark.parametrize("later", [0, 30_000, 10_000_000], ids=["fresh", "some expired", "all expired"])
@pytest.mark.parametrize("user", ["u", "late", "nobody", "\u00fc \u2603"])
def test_one_entity_is_read_as_its_row_is(pair: Pair, user: str, later: int) -> None:
    """In one window of a kernel, as the table of one process has it under its lock."""
    pair.node.put("user", ["\u00fc \u2603"], seed=11)
    pair.write("user", [], {0: NOW + 3})
    found = []
    for copy in (pair.node.copy, pair.copy):
        with copy.read("user", hash_ids([user])) as row:
            found.append(row.one(user, NOW + later))
    mine, theirs = found
    assert mine.known == theirs.known == (user != "nobody")
    assert (mine.vectors == theirs.vectors).all() and (mine.weakest == theirs.weakest).all()
