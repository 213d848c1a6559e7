"""Filters, boosts and what was seen: each answer is what one would choose by hand from scores of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.arrays import Ints
from forebay.errors import BadRequest
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, RankResponse, RetrieveRequest
from forebay.retrieval.selecting import MAX_COMPILED
from forebay.segments.spec import SIDES, FeatureSpec
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.itemcondition import ItemCondition
from forebay.segments.state.ids import hash_ids
from forebay.store import sharedcopy
from forebay.store.codec import ServedColumns
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.indexkeeper import IndexOptions
from forebay.store.keptrows import MAX_KEPT
from forebay.store.selectedrows import SCANNED_ROWS
from forebay.store.sharedcopy import SharedCopy
from forebay.store.tablereader import TableReader

from .conftest import Node
from .fusions import affinity, weighted_sum
from .test_shared_engine import LIMITS, Pair

GENRES, COUNT = ("Action", "Comedy", "Drama"), 600
ATTRIBUTES = (
    AttributeSpec("genres", "set", GENRES),
    AttributeSpec("year", "number"),
    AttributeSpec("in_stock", "number"),
)
OF_ITEMS = ServedColumns(FeatureSpec("latest", of=("genres", "year", "in_stock")), ATTRIBUTES)
OF_USERS = ServedColumns(FeatureSpec("last", of=("item",), size=4))
ITEMS = [f"i{n}" for n in range(COUNT)]


def number(value: float) -> int:
    """The code of a number, as state has it."""
    return round(value * 1000) * 2 + 1


def described(count: int = COUNT, seed: int = 3) -> Ints:
    """Attributes of items: some genres of three, a year, and whether they are in stock."""
    rng = np.random.default_rng(seed)
    years, stock = rng.integers(1950, 2020, count), rng.integers(0, 2, count)
    return np.stack([rng.integers(0, 8, count) << 1, years * 2000 + 1, stock * 2000 + 1], axis=1)


COLUMNS = described()
GENRE, YEAR, STOCK = COLUMNS[:, 0], (COLUMNS[:, 1] - 1) // 2000, COLUMNS[:, 2] != 1
COMEDY = (GENRE >> 2 & 1) == 1


def served(make_node: Callable[..., Node], items: ServedColumns = OF_ITEMS, **given: Any) -> Node:
    node = make_node(served={"item": items, "user": OF_USERS}, **given)
    return node


@pytest.fixture(params=[weighted_sum, lambda use: affinity()], ids=["folds", "keeps halves"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, make_node: Callable[..., Node]) -> Iterator[Pair]:
    """Six hundred items with attributes, and a user who has seen four, in one process and in shared tables."""
    made = Pair(served(make_node, fusion=request.param("rank")), tmp_path)
    made.node.put("item", ITEMS, seed=1, columns=COLUMNS)
    made.node.put("user", ["u"], seed=7, columns=hash_ids(["i3", "i4", "i5", "i4"])[None])
    made.node.put("user", ["new"], seed=8, columns=np.zeros((1, 4), np.int64))
    yield made
    made.feeding.close()


def _close(pair: Pair) -> float:
    return 1e-5 if pair.node.fusion.kind == "weighted_sum" else 4e-3  # halves are float16


def _rank(pair: Pair, **asked: Any) -> RankResponse:
    request = RankRequest("u", ITEMS, **asked)
    return pair.answers(lambda engine: engine.rank(request), _close(pair))


def _retrieve(pair: Pair, **asked: Any) -> RankResponse:
    request = RetrieveRequest("u", **asked)
    return pair.answers(lambda engine: engine.retrieve(request), 1e-5)


def test_a_candidate_that_does_not_meet_the_filter_is_not_ranked(pair: Pair) -> None:
    """The others keep their scores and their order."""
    everything = pair.node.engine.rank(RankRequest("u", ITEMS, 1000)).hits
    good = {item for item, ok in zip(ITEMS, STOCK & (YEAR >= 1990), strict=True) if ok}
    assert 50 < len(good) < 200
    hits = _rank(pair, k=1000, filter="in_stock and year >= 1990").hits
    assert hits and [
        h.item for h in pair.node.engine.rank(RankRequest("u", ITEMS, 1000, filter="in_stock and year >= 1990"))
    ] == [h.item for h in everything if h.item in good]
    assert {h.item for h in hits} == good


def test_a_boost_is_added_to_the_scores_and_told_by_the_shares(pair: Pair) -> None:
    """Two conditions that an item meets add up; shares and bias are the score."""
    plain = {hit.item: hit for hit in pair.node.engine.rank(RankRequest("u", ITEMS, 1000, explain=True))}
    boost = {"'Comedy' in genres": 0.75, "year < 1960": -0.5}
    answer = _rank(pair, k=1000, boost=boost, explain=True)
    mine = pair.node.engine.rank(RankRequest("u", ITEMS, 1000, boost=boost, explain=True)).hits
    added = dict(zip(ITEMS, (COMEDY * 0.75 - (YEAR < 1960) * 0.5).tolist(), strict=True))
    assert len(set(added.values())) == 4
    for hit in mine:
        assert hit.score == pytest.approx(plain[hit.item].score + added[hit.item], abs=1e-5)
        assert hit.shares == pytest.approx((plain[hit.item].shares or {}) | {"boost": added[hit.item]}, abs=1e-5)
    assert [h.score for h in answer] == sorted((h.score for h in answer), reverse=True)


def test_what_is_denied_not_allowed_or_seen_is_out(pair: Pair) -> None:
    """In both uses, alone and together; the user's row says what was seen."""
    for ask in (_rank, _retrieve):
        everything = {hit.item for hit in ask(pair, k=1000)}
        assert everything == set(ITEMS)
        assert {hit.item for hit in ask(pair, k=1000, exclude_seen=True)} == everything - {"i3", "i4", "i5"}
        assert {hit.item for hit in ask(pair, k=1000, deny=["i1", "i2", "nothing"])} == everything - {"i1", "i2"}
        assert {hit.item for hit in ask(pair, k=1000, allow=["i1", "i2", "i3", "nothing"])} == {"i1", "i2", "i3"}
        assert not ask(pair, k=1000, allow=[]).hits
        hits = ask(pair, k=1000, allow=["i1", "i2", "i3"], deny=["i1"], exclude_seen=True).hits
        assert [hit.item for hit in hits] == ["i2"]
    for user in ("new", "nobody"):
        answer = pair.shared.retrieve(RetrieveRequest(user, 1000, exclude_seen=True))
        assert {hit.item for hit in answer} == set(ITEMS)


@pytest.mark.parametrize("boost", [{}, {"'Comedy' in genres": 0.8, "year < 1960": -0.3}])
@pytest.mark.parametrize("text", ["", "year == 1987", "in_stock and year >= 1990", "not in_stock or 'Drama' in genres"])
def test_retrieval_is_the_best_of_those_that_meet_the_filter(
    pair: Pair, text: str, boost: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `k` that brute force finds, by a scan of few rows as by the index with a bit for each."""
    scores = weighted_sum("retrieve").scores(pair.node.vectors("user", ["u"])[0], pair.node.vectors("item", ITEMS))
    scores = scores + (boost.get("'Comedy' in genres", 0) * COMEDY + boost.get("year < 1960", 0) * (YEAR < 1960))
    drama = (GENRE >> 3 & 1) == 1
    good = {
        "": STOCK | True,
        "year == 1987": YEAR == 1987,
        "in_stock and year >= 1990": STOCK & (YEAR >= 1990),
        "not in_stock or 'Drama' in genres": ~STOCK | drama,
    }[text]
    assert good.any()
    expected = [ITEMS[i] for i in np.argsort(-scores, kind="stable") if good[i]][:20]
    for most in (SCANNED_ROWS, 0):
        monkeypatch.setattr("forebay.store.selectedrows.SCANNED_ROWS", most)
        answer = _retrieve(pair, k=20, filter=text, boost=boost)
        mine = pair.node.engine.retrieve(RetrieveRequest("u", 20, filter=text, boost=boost))
        assert [hit.item for hit in mine] == expected
        assert {hit.item for hit in answer} == set(expected)


def test_a_wide_filter_over_shared_tables_is_the_index_s(
    tmp_path: Path, make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bit for each row that may be found, and no scan of all rows."""
    node = served(make_node, fusion=weighted_sum("rank"))
    parts = (node.model, "g1", node.codecs, dict.fromkeys(SIDES, 4), tmp_path)
    lists = IndexOptions(flat_rows=50, recall=1.0, changed_rows=5, changed_part=1 << 30, pause_share=0)
    feeding, show = FeedingCopy(*parts, limits=LIMITS, index=lists), node.copy.show
    node.copy.show = lambda *rows: (show(*rows), feeding.show(*rows))  # type: ignore[method-assign, assignment, func-returns-value]
    node.put("item", ITEMS, seed=1, columns=COLUMNS)
    feeding._index.settle()
    copy, query = SharedCopy(*parts, limits=LIMITS), node.engine.retrieval.user_half(node.vectors("user", [""])[0])[0]
    wanted = node.engine._selector.of("year >= 1960", {})
    assert wanted is not None and np.count_nonzero(YEAR >= 1960) > 400
    exact = copy._readers["item"].best(query, 50, np.empty(0, np.int64), wanted)
    monkeypatch.setattr(sharedcopy, "SCANNED_ROWS", 100)
    monkeypatch.setattr(TableReader, "best", None)
    assert copy.search(query, 50, np.empty(0, np.int64), wanted).tolist() == exact.tolist()
    feeding.close()


def test_the_next_search_knows_a_new_attribute_and_what_is_gone(pair: Pair) -> None:
    """What a condition keeps is kept until then, and not longer."""
    few = {item for item, ok in zip(ITEMS, YEAR == 1987, strict=True) if ok}
    assert few and {hit.item for hit in _retrieve(pair, k=100, filter="year == 1987")} == few
    other = next(item for item in ITEMS if item not in few)
    columns = COLUMNS[ITEMS.index(other)].copy()
    columns[1] = number(1987)
    pair.node.put("item", [other], seed=5, columns=columns[None])
    gone = min(few)
    pair.write("item", [gone], {})
    pair.node.put("item", ["newer"], seed=6, columns=columns[None])
    expected = (few | {other, "newer"}) - {gone}
    for _ in range(2):
        assert {hit.item for hit in _retrieve(pair, k=100, filter="year == 1987")} == expected
    columns[1] = number(1988)
    pair.node.put("item", [other], seed=5, columns=columns[None])
    assert {hit.item for hit in _retrieve(pair, k=100, filter="year == 1987")} == expected - {other}
    third = next(item for item in ITEMS if item not in few | {other})
    columns[1] = number(1987)
    pair.node.put("item", [third], seed=5, columns=columns[None])
    assert {hit.item for hit in _retrieve(pair, k=100, filter="year == 1987")} == (expected - {other}) | {third}


def test_an_item_whose_row_is_gone_between_the_search_and_the_answer_is_judged_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what its row says then."""
    engine, search = pair.node.engine, pair.node.copy.search
    request = RetrieveRequest("u", COUNT, filter="in_stock")
    best = engine.retrieve(request).hits[0].item
    columns = COLUMNS[ITEMS.index(best)].copy()
    columns[2] = number(0)

    def sold_out_meanwhile(*asked: Any) -> Ints:
        found = search(*asked)
        pair.node.put("item", [best], seed=1, columns=columns[None])
        return found

    monkeypatch.setattr(pair.node.copy, "search", sold_out_meanwhile)
    hits = engine.retrieve(request).hits
    assert len(hits) == int(STOCK.sum()) - 1 and best not in {hit.item for hit in hits}


def test_a_candidate_is_not_judged_by_its_hash_twins_attributes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown id with the hash of an item that is in stock is in stock of nothing."""
    known = ITEMS[int(np.argmax(STOCK))]
    monkeypatch.setattr(
        "forebay.retrieval.engine.hash_ids", lambda ids: hash_ids([known if i == "nothing" else i for i in ids])
    )
    for engine in (pair.node.engine, pair.shared):
        hits = engine.rank(RankRequest("u", ["nothing", known], 5, filter="in_stock")).hits
        assert [hit.item for hit in hits] == [known]
        hits = engine.rank(RankRequest("u", ["nothing"], 5, filter="not in_stock")).hits
        assert [(hit.item, hit.known) for hit in hits] in ([], [("nothing", False)])
        assert [hit.known for hit in engine.rank(RankRequest("u", ["new item"], 5, filter="year != 1987"))] == [False]


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"filter": "colour == 'red'"}, "names 'colour'"),
        ({"filter": "value > 3"}, "names 'value'"),
        ({"filter": "action == 'view'"}, "names 'action'"),
        ({"filter": "genres"}, "genres alone"),
        ({"filter": "'Opera' in genres"}, "genres does not list"),
        ({"filter": "year =="}, "cannot be read"),
        ({"filter": "year == 1\0"}, "cannot be read"),
        ({"filter": "year == '\ud800'"}, "cannot be read"),
        ({"filter": "year in {[1]}"}, "compares year with [1]"),
        ({"filter": "year == {[1]}"}, "where a plain value must stand"),
        ({"filter": "(" * 900 + "year" + ")" * 900}, "cannot be read"),
        ({"filter": "not " * 90 + "year"}, ""),
        ({"filter": "year > 1e999"}, "compares year"),
        ({"filter": "year > 1j"}, "compares year"),
        ({"filter": "__import__('os')"}, "no comparison"),
        ({"filter": "year > 1" + " or year > 1" * 300}, "characters"),
        ({"boost": {"colour": 1.0}}, "names 'colour'"),
        ({"boost": {"in_stock": float("nan")}}, "the weight nan"),
        ({"boost": {"in_stock": float("-inf")}}, "the weight -inf"),
        ({"boost": {"in_stock": 1e300}}, "the weight 1e+300"),
        ({"boost": {f"year > {n}": 1.0 for n in range(9)}}, "9 boosts"),
        ({"allow": ["a"] * 10_001}, "allow is 10001"),
        ({"deny": ["a"] * 101}, "deny is 101"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(pair: Pair, asked: dict[str, Any], what: str) -> None:
    """And which attributes there are is said."""
    for ask in (
        lambda: pair.node.engine.rank(RankRequest("u", ["i1"], **asked)),
        lambda: pair.shared.retrieve(RetrieveRequest("u", **asked)),
    ):
        if not what:
            ask()  # deep, and not too deep
            continue
        with pytest.raises(BadRequest) as caught:
            ask()
        assert what in caught.value.what and caught.value.do
        if what.startswith("names"):
            assert "genres (set), year (number), in_stock (number)" in caught.value.do


def test_a_generation_without_serving_columns_says_so(node: Any) -> None:
    for asked in ({"filter": "year > 1990"}, {"boost": {"year > 1990": 1.0}}, {"exclude_seen": True}):
        with pytest.raises(BadRequest) as caught:
            node.engine.rank(RankRequest("u", ["i1"], **asked))
        assert "[serving]" in caught.value.do


def test_what_is_kept_of_conditions_is_bounded(make_node: Callable[..., Node]) -> None:
    """A client that makes one up for each request costs no memory."""
    node = served(make_node)
    node.put("item", ITEMS, seed=1, columns=COLUMNS)
    for year in range(MAX_COMPILED + 50):
        node.engine.retrieve(RetrieveRequest("u", 1, filter=f"year > {year}"))
    assert len(node.engine._selector._compiled) == MAX_COMPILED
    assert len(node.copy._selected._rows) == MAX_KEPT


def test_a_hidden_item_is_gone_on_every_path_with_its_next_row(tmp_path: Path, make_node: Callable[..., Node]) -> None:
    """And back with the one after that."""
    hide = ItemCondition.of("in_stock == 0", ATTRIBUTES)
    pair = Pair(served(make_node, replace(OF_ITEMS, hide=hide)), tmp_path)
    columns = COLUMNS.copy()
    columns[:, 2] = number(1)
    pair.node.put("item", ITEMS, seed=1, columns=columns)
    pair.node.put("user", ["u"], seed=7, columns=np.zeros((1, 4), np.int64))
    best = pair.node.engine.retrieve(RetrieveRequest("u", 1)).hits[0].item
    row = columns[[ITEMS.index(best)]]

    def there(engine: Engine) -> list[bool]:
        found = [
            engine.rank(RankRequest("u", ITEMS, 1000)),
            engine.rank(RankRequest("u", [best], 1, explain=True)),
            engine.rank(RankRequest("u", ITEMS, 1000, filter="year > 0", boost={"year > 0": 1.0})),
            engine.retrieve(RetrieveRequest("u", 1000)),
            engine.retrieve(RetrieveRequest("u", 5, allow=[best])),
            engine.retrieve(RetrieveRequest("u", 1000, filter="year > 0")),
        ]
        return [*(best in {hit.item for hit in answer} for answer in found), engine.entity("item", best).known]

    for stock, expected in ((1, True), (0, False), (1, True)):
        row[0, 2] = number(stock)
        pair.node.put("item", [best], seed=1, columns=row)
        for engine in (pair.node.engine, pair.shared):
            assert there(engine) == [expected] * 7
    pair.write("item", [best], {})  # a tombstone: a candidate of that name is one that nobody knows
    for engine in (pair.node.engine, pair.shared):
        assert there(engine) == [True, True, False, False, False, False, False]
        assert not engine.rank(RankRequest("u", [best], 1)).hits[0].known
    pair.feeding.close()


def test_a_writer_that_dies_before_its_word_of_a_row_is_made_good_by_the_next(
    tmp_path: Path, make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that keep what a condition kept find it again when a table is opened."""
    pair = Pair(served(make_node), tmp_path)
    pair.node.put("item", ITEMS, seed=1, columns=COLUMNS)
    request = RetrieveRequest("nobody", 100, filter="year == 1987")
    before = {hit.item for hit in pair.shared.retrieve(request)}
    other = next(item for item in ITEMS if item not in before)
    columns = COLUMNS[[ITEMS.index(other)]].copy()
    columns[0, 1] = number(1987)
    with monkeypatch.context() as dying:
        dying.setattr(pair.feeding._tables["item"], "_tell_served", lambda other: None)
        pair.node.put("item", [other], seed=5, columns=columns)
    assert {hit.item for hit in pair.shared.retrieve(request)} == before
    pair.feeding.close()
    again = FeedingCopy(pair.node.model, "g1", pair.node.codecs, dict.fromkeys(SIDES, 4), tmp_path, limits=LIMITS)
    assert {hit.item for hit in pair.shared.retrieve(request)} == before | {other}
    again.close()
