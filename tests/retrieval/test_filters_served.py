"""Filters, boosts and what was seen, as clients ask for them: over HTTP, in a batch, at a terminal, and on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import urllib3

from forebay.cli.lookup import LookupFlags, lookup
from forebay.config import Settings
from forebay.errors import BadRequest, UsageError
from forebay.retrieval.client import Client
from forebay.retrieval.messages import (
    BatchRequest,
    BatchResponse,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
)
from forebay.retrieval.server import create_app, serving
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.itemcondition import ItemCondition
from forebay.segments.spec.spec import FeatureSpec
from forebay.segments.state.ids import hash_ids
from forebay.store.codec import ServedColumns

from .conftest import Node

PAGE = Path(__file__).parents[2] / "docs" / "lookups.md"
ATTRIBUTES = (
    AttributeSpec("genres", "set", ("Action", "Comedy")),
    AttributeSpec("language", "category", ("en", "fr")),
    AttributeSpec("year", "number"),
    AttributeSpec("in_stock", "number"),
)
ITEMS = [f"i{n}" for n in range(40)]
YEARS = np.arange(1970, 2010)


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """Forty items, of 1970 to 2009; each fourth one is hidden. The user has seen three."""
    feature = FeatureSpec("latest", of=tuple(a.name for a in ATTRIBUTES))
    hide = ItemCondition.of("in_stock == 0", ATTRIBUTES)
    made = make_node(
        served={
            "item": ServedColumns(feature, ATTRIBUTES, hide),
            "user": ServedColumns(FeatureSpec("last", of=("item",), size=3)),
        }
    )
    genres, stock = np.arange(40) % 3 << 1, (np.arange(40) % 4 != 3) * 2000 + 1
    columns = np.stack([genres, np.arange(40) % 2 + 1, YEARS * 2000 + 1, stock], axis=1)
    made.put("item", ITEMS, seed=1, columns=columns)
    made.put("user", ["u42"], seed=2, columns=hash_ids(["i20", "i21", "i22"])[None])
    return made


@pytest.fixture
def url(node: Node) -> Iterator[str]:
    with serving(create_app(node.engine, lambda: Readiness(True))) as address:
        yield address


def test_the_client_asks_for_what_the_engine_answers(url: str, node: Node) -> None:
    """Each word of it, and its errors by type."""
    asked: dict[str, Any] = {
        "filter": "year >= 1980", "boost": {"'Comedy' in genres": 0.5}, "exclude_seen": True, "deny": ["i30"],
        "allow": ITEMS[5:38],
    }  # fmt: skip
    with Client(url, timeout_s=5.0) as client:
        ranked = client.rank("u42", ITEMS, 30, **asked)
        assert ranked == node.engine.rank(RankRequest("u42", ITEMS, 30, **asked))
        expected = {f"i{n}" for n in range(10, 38) if n not in (20, 21, 22, 30) and n % 4 != 3}
        assert {hit.item for hit in ranked} == expected
        found = client.retrieve("u42", 30, **asked)
        assert found == node.engine.retrieve(RetrieveRequest("u42", 30, **asked))
        assert {hit.item for hit in found} == expected
        with pytest.raises(BadRequest, match="names 'colour'") as caught:
            client.retrieve("u42", filter="colour == 'red'")
        assert "in_stock (number)" in str(caught.value)


def test_a_hidden_item_is_in_no_batch_and_no_explanation(url: str) -> None:
    """Nor does the server know it; each request of a batch has a filter of its own, and its own error."""
    http = urllib3.PoolManager()
    body = json.dumps({"user": "u42", "items": ["i2", "i3"]}).encode()
    explained = msgspec.json.decode(http.request("POST", url + "/v1/explain", body=body).data, type=RankResponse)
    assert [hit.item for hit in explained] == ["i2"] and explained.hits[0].shares
    requests = [RankRequest("u42", ITEMS, 40, filter=text) for text in ("year > 2000", "year > 'x'", "")]
    body = msgspec.json.encode(BatchRequest(requests))
    batch = msgspec.json.decode(http.request("POST", url + "/v1/batch", body=body).data, type=BatchResponse)
    first, second, third = batch.entries
    assert first.answer is not None and {h.item for h in first.answer} == {f"i{n}" for n in range(31, 40) if n % 4 != 3}
    assert second.error is not None and second.error.error == "bad_request"
    assert third.answer is not None and len(third.answer) == 30
    known = [http.request("GET", f"{url}/v1/entities/item/i{n}").json()["known"] for n in (2, 3)]
    assert known == [True, False]


def test_a_terminal_may_ask_so_too(url: str, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """The candidates of `rank` meet the filter, and its table has a column for the boosts."""
    settings = replace(Settings(), server=url)
    flags = LookupFlags(5, "rank", 20, "year >= 1990", ("'Comedy' in genres=0.5", "year >= 2000=-1"), True)
    lookup(settings, "user:u42", flags, as_json=True)
    hits = json.loads(capsys.readouterr().out)["ranking"]["hits"]
    assert len(hits) == 5 and all(int(hit["item"][1:]) > 22 for hit in hits)
    for hit in hits:
        number = int(hit["item"][1:])
        assert hit["shares"]["boost"] == pytest.approx(0.5 * (number % 3 == 2) - (number >= 30))
    lookup(settings, "user:u42", replace(flags, use="retrieve"), as_json=False)
    assert "boost" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no boost"):
        lookup(settings, "user:u42", replace(flags, boost=("year",)), as_json=False)


def test_the_examples_on_the_page_are_answered(node: Node) -> None:
    """Each line of its JSON is a request of `rank` with candidates, and one of `retrieve`."""
    block = re.search(r"^```json\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    lines = block[1].splitlines()
    assert len(lines) >= 3
    for line in lines:
        given = json.loads(line)
        found = node.engine.retrieve(msgspec.convert(given, RetrieveRequest))
        ranked = node.engine.rank(msgspec.convert(given | {"candidates": ITEMS}, RankRequest))
        assert {hit.item for hit in found} == {hit.item for hit in ranked}
        assert 0 < len(found) < len(ITEMS)
