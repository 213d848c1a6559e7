"""`forebay lookup` of a user: which use was asked, of what, and whether its numbers are probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from forebay.cli.lookup import LookupFlags, lookup
from forebay.config import Settings
from forebay.errors import UsageError
from forebay.retrieval.messages import RankRequest, Readiness, RetrieveRequest
from forebay.retrieval.server import create_app, serving

from .conftest import Node


@pytest.fixture
def settings(node: Node) -> Iterator[Settings]:
    with serving(create_app(node.engine, lambda: Readiness(True))) as address:
        yield replace(Settings(), server=address)


def test_a_user_is_ranked_and_told_in_probabilities(
    node: Node, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The candidates come from retrieval, the order and the probabilities from `rank`; the text says both."""
    lookup(settings, "user:u", LookupFlags(k=5, candidates=12), as_json=True)
    found = json.loads(capsys.readouterr().out)
    retrieved = [h.item for h in node.engine.retrieve(RetrieveRequest("u", 12)).hits]
    ranked = node.engine.rank(RankRequest("u", retrieved, 5)).hits
    assert found["use"] == "rank" and found["scores"] == "logits" and found["candidates"] == 12
    assert [h["item"] for h in found["ranking"]["hits"]] == [h.item for h in ranked]
    for hit, expected in zip(found["ranking"]["hits"], ranked, strict=True):
        assert hit["score"] == pytest.approx(expected.score, abs=1e-5)
        assert hit["probability"] == pytest.approx(1 / (1 + np.exp(-expected.score)), abs=1e-6)
    lookup(settings, "user:u", LookupFlags(k=5, candidates=12), as_json=False)
    shown = capsys.readouterr().out
    assert "rank of the 12 items that retrieve found" in shown and "p is the probability" in shown and "logits" in shown
    assert f"{1 / (1 + np.exp(-ranked[0].score)):.3f}" in shown


def test_retrieval_is_told_in_scores_that_are_no_probabilities(
    node: Node, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its logits are of one item against all others: only their order means something."""
    lookup(settings, "user:u", LookupFlags(k=4, use="retrieve"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["use"] == "retrieve" and found["scores"] == "logits"
    assert [h["item"] for h in found["ranking"]["hits"]] == [
        h.item for h in node.engine.retrieve(RetrieveRequest("u", 4)).hits
    ]
    assert all("probability" not in h for h in found["ranking"]["hits"])
    lookup(settings, "user:u", LookupFlags(k=4, use="retrieve"), as_json=False)
    assert "retrieve of all items" in (shown := capsys.readouterr().out) and "no probabilities" in shown


def test_an_unknown_use_is_refused_and_an_item_is_asked_neither(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the server is asked; an item has segments and no ranking."""
    with pytest.raises(UsageError, match="no use 'score'"):
        lookup(settings, "user:u", LookupFlags(use="score"), as_json=False)
    lookup(settings, "item:i1", LookupFlags(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["ranking"] is None and found["entity"]["known"]
