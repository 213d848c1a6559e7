"""Lookups of users that are not in memory: answered as the others are, so many at once, inside of the caller's time."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from forebay.errors import DeadlineExceeded, Overloaded
from forebay.retrieval.client import Client
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, Readiness, RetrieveRequest
from forebay.retrieval.misses import Misses
from forebay.retrieval.server import create_app, serving
from forebay.segments.spec import SIDES, Side
from forebay.store.servingcopy import ServingCopy
from forebay.store.vectors import Part, VectorStore

from .conftest import NOW, Node

USERS, ITEMS, ROOM = [f"u{n}" for n in range(40)], [f"i{n}" for n in range(10)], 5


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[tuple[Node, ServingCopy]]:
    """A node whose users are all in memory, and a copy of the same rows that has room for a few."""
    node = Node()
    store = VectorStore.open(tmp_path / "g1", create=True, generation="g1", bundle_hash=node.model.hash)
    few = ServingCopy(node.model, "g1", node.codecs, dict.fromkeys(SIDES, 4), store, users_in_memory=ROOM)
    names: dict[Side, list[str]] = {"user": USERS, "item": ITEMS}
    for side, ids in names.items():
        codec, random = node.codecs[side], np.random.default_rng(3)
        rows = codec.empty(len(ids))
        for segment in codec.segments:
            part = rows["segments"][segment.name]
            part["vector"] = random.integers(-127, 128, (len(ids), segment.dim))
            part["scale"], part["as_of"], part["last_event"] = random.random(len(ids), np.float32), NOW, NOW - 5
        puts = [(entity, 1, record) for entity, record in zip(ids, codec.pack(rows, ids), strict=True)]
        for copy in (node.copy, few):
            copy.write(side, puts, [], {1: NOW + 9}, {})
    yield node, few
    few.close()


def test_every_answer_is_that_of_a_node_which_has_all_in_memory(copies: tuple[Node, ServingCopy]) -> None:
    """Over HTTP, several at a time; most users are not in memory."""
    node, few = copies
    engine = Engine(node.model, few, clock=lambda: NOW / 1000)
    with serving(create_app(engine, lambda: Readiness(True))) as url, Client(url, timeout_s=20) as client:

        def asked(user: str) -> None:
            assert client.rank(user, ITEMS, 5) == node.engine.rank(RankRequest(user, ITEMS, 5))
            assert client.retrieve(user, 3) == node.engine.retrieve(RetrieveRequest(user, 3))
            assert client.entity("user", user, vectors=True) == node.engine.entity("user", user, vectors=True)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(asked, [*USERS, "nobody"] * 3))
        with urllib.request.urlopen(f"{url}/metrics") as told:
            text = told.read().decode()
    for path in ("/v1/rank", "/v1/retrieve", "/v1/entities"):
        found = re.search(rf'forebay_user_read_seconds_count{{path="{path}"}} (\d+)', text)
        assert found is not None and 0 < int(found[1]) <= 41 * 3
    places = {place: int(n) for place, n in re.findall(r'forebay_user_rows_total{place="(\w+)"} (\d+)', text)}
    reads = sum(map(int, re.findall(r"forebay_user_read_seconds_count{.*} (\d+)", text)))
    assert places["elsewhere"] == reads and sum(places.values()) == 3 * 41 * 3
    assert few.rows()["user"] == ROOM


def test_a_miss_takes_no_longer_than_the_caller_waits() -> None:
    release = threading.Event()

    async def asked() -> None:
        misses = Misses(threads=1, waiting=2)
        start = time.monotonic()
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="did not come in time"):
                await misses.run(lambda: release.wait(30), 0.05)
        with pytest.raises(Overloaded, match="2 lookups wait"):  # those that nobody waits for are still at it
            await misses.run(lambda: True, 5)
        assert time.monotonic() - start < 20
        release.set()
        while misses._waiting:
            await asyncio.sleep(0.01)
        assert await misses.run(lambda: 7, None) == 7
        with pytest.raises(ZeroDivisionError):
            await misses.run(lambda: 1 // 0, 5)

    asyncio.run(asked())


def test_others_are_answered_while_a_lookup_waits_for_its_user(
    copies: tuple[Node, ServingCopy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose row does not come holds nobody up, and ends with its own time."""
    node, few = copies
    assert few.hot is not None
    slow = next(user for user in USERS if not few.at_hand("user", user))
    quick = next(user for user in USERS if few.at_hand("user", user))
    release, fetch = threading.Event(), few.hot.fetch

    def stuck(user: str, show: Callable[[Part], None]) -> Part | None:
        if user:
            release.wait(60)
        return fetch(user, show)

    monkeypatch.setattr(few.hot, "fetch", stuck)
    engine = Engine(node.model, few, clock=lambda: NOW / 1000)
    with (
        serving(create_app(engine, lambda: Readiness(True))) as url,
        Client(url, timeout_s=20) as client,
        Client(url, timeout_s=0.5) as hasty,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = pool.submit(client.rank, slow, ITEMS, 3)
        with pytest.raises(DeadlineExceeded):
            hasty.rank(slow, ITEMS, 3)
        assert [client.rank(quick, ITEMS, 3).user_known for _ in range(5)] == [True] * 5
        assert not waiting.done()
        release.set()
        assert waiting.result(20) == node.engine.rank(RankRequest(slow, ITEMS, 3))
