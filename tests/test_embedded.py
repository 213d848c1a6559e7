"""Lookups inside a service: a generation's vectors topics on a real broker, followed by the process that asks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forebay.clock import now_ms
from forebay.config import Settings
from forebay.embedded import Embedded
from forebay.errors import BadRequest, GenerationUnavailable, ServerUnavailable, StoreLocked, TopicMissing, WrongShard
from forebay.retrieval.messages import RankRequest
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.shard import Shard
from forebay.store.codec import HEARTBEAT_KEY, codec_of, pack_heartbeat
from forebay.store.generation import Generation
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure

pytestmark = pytest.mark.broker
PARTITIONS = 2
ITEMS = [f"i{n}" for n in range(20)]
Send = Callable[..., None]


@pytest.fixture
def settings(kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path) -> Settings:
    """A generation whose topics are there."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
    bundle.save(tmp_path / "bundles")
    Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, PARTITIONS), {}).save(tmp_path / "generations" / "g1")
    return replace(Settings(), bootstrap=kafka.bootstrap, topic_prefix=topics.prefix, data_dir=tmp_path)


@pytest.fixture
def send(topics: Topics, bundle: Bundle, publish: Callable[..., None]) -> Iterator[Send]:
    """Rows of random vectors of now, as a worker writes them, and a watermark behind them in each partition."""

    def rows(side: Side, ids: list[str], seed: int) -> None:
        codec, random, now = codec_of(bundle, side), np.random.default_rng(seed), now_ms()
        made = codec.empty(len(ids))
        for slot in codec.segments:
            part = made["segments"][slot.name]
            part["vector"] = random.integers(-127, 128, (len(ids), slot.dim))
            part["scale"], part["as_of"], part["last_event"] = 0.01, now, now - 5
        records = [(e.encode(), v) for e, v in zip(ids, codec.pack(made, ids), strict=True)]
        publish(topics.vectors("g1", side), records, 0)
        for partition in range(PARTITIONS):
            publish(topics.vectors("g1", side), [(HEARTBEAT_KEY, pack_heartbeat(now))], partition)

    yield rows


def test_a_service_follows_the_topics_and_asks_in_process(
    settings: Settings, send: Send, wait_for: Callable[..., None]
) -> None:
    """What is in the log when it opens is there, what comes later arrives, and each answer says how old it is."""
    send("item", ITEMS, 1)
    send("user", ["u"], 2)
    with Embedded(settings) as lookup:
        top = lookup.rank("u", candidates=ITEMS, k=5)
        assert len(top) == 5 and top.user_known and top.generation == "g1"
        assert {s.state for s in top.segments.values()} == {"fresh"}
        assert lookup.ready().ready
        whole = lookup.explain("u", ITEMS)
        assert [hit.item for hit in whole][:5] == [hit.item for hit in top]
        assert len(whole) == len(ITEMS) and all(hit.shares for hit in whole)
        assert {hit.item for hit in lookup.retrieve("u", k=3, deny=ITEMS[:10])} <= set(ITEMS[10:])
        good, bad, strange = RankRequest("u", ITEMS, 2), RankRequest("u", [], -1), RankRequest("u", [], 1, "g2")
        entries = lookup.batch([good, bad, strange]).entries
        assert entries[0].answer is not None and [hit.item for hit in entries[0].answer] == [h.item for h in top][:2]
        assert [e.error.error for e in entries[1:] if e.error] == ["bad_request", "generation_unavailable"]
        with pytest.raises(BadRequest):
            lookup.rank("u", ITEMS, k=-1)
        with pytest.raises(GenerationUnavailable):
            lookup.rank("u", ITEMS, generation="g2")
        assert not lookup.entity("user", "v").known
        send("user", ["v"], 3)
        wait_for(lambda: lookup.entity("user", "v").known, "a row that came later")
    with pytest.raises(ServerUnavailable, match="not open"):
        lookup.rank("u", ITEMS)


def test_it_serves_the_share_of_users_and_keeps_the_hot_ones_that_the_settings_name(
    settings: Settings, send: Send, publish: Callable[..., None]
) -> None:
    """As `forebay serve` does: another shard's user is refused by name, alone and in a batch, and a user that is not in
    memory is read from the store."""
    owners = {user: Shard(1, 2).owner(user, PARTITIONS) for user in ("u", "v", "w", "x", "y", "z")}
    mine = [user for user, owner in owners.items() if owner == 1]
    other = next(user for user, owner in owners.items() if owner == 2)
    assert len(mine) > 1
    send("item", ITEMS, 1)
    send("user", mine, 2)
    with Embedded(replace(settings, shard="1/2", users_in_memory=1)) as lookup:
        assert all(lookup.rank(user, ITEMS, 3).user_known for user in mine)
        with pytest.raises(WrongShard) as refused:
            lookup.rank(other, ITEMS, 3)
        assert refused.value.shard == 2
        good, bad = lookup.batch([RankRequest(mine[0], ITEMS, 2), RankRequest(other, ITEMS, 2)]).entries
        assert good.answer is not None and bad.error is not None and bad.error.error == "wrong_shard"
    assert list(settings.data_dir.rglob("*hot*")), "who was in memory is written down"


def test_a_restart_has_what_was_there(settings: Settings, send: Send) -> None:
    """From its own store, with the same answers; a second owner of the store is refused by name, and harms nothing."""
    send("item", ITEMS, 1)
    send("user", ["u"], 2)
    with Embedded(settings) as lookup:
        first = lookup.rank("u", ITEMS)
        with pytest.raises(StoreLocked):
            Embedded(settings).open()
        assert lookup.rank("u", ITEMS).hits == first.hits
    with Embedded(settings) as lookup:
        assert lookup.rank("u", ITEMS).hits == first.hits
    assert not [t.name for t in threading.enumerate() if t.name == "forebay-replica"]


def test_what_cannot_be_opened_is_named_and_leaves_nothing_open(settings: Settings, send: Send) -> None:
    """Topics that are not there, and a log whose end is not reached in time."""
    lookup = Embedded(replace(settings, topic_prefix="nowhere."))
    with pytest.raises(TopicMissing):
        lookup.open()
    with pytest.raises(ServerUnavailable, match="not read to their end in 0 s"):
        Embedded(settings, ready_s=0.0).open()
    send("item", ITEMS, 1)
    with Embedded(settings) as lookup:
        assert len(lookup.rank("nobody", ITEMS, 3)) == 3


def test_a_replica_that_ends_is_told_and_lookups_go_on(
    settings: Settings, send: Send, topics: Topics, publish: Callable[..., None], wait_for: Callable[..., None]
) -> None:
    """A record of another kind in the topic: what was there before is still answered, as old as it says."""
    send("item", ITEMS, 1)
    send("user", ["u"], 2)
    with Embedded(settings) as lookup:
        before = lookup.rank("u", ITEMS)
        publish(topics.vectors("g1", "user"), [(b"u", b"no row")], 0)
        wait_for(lambda: not lookup.ready().ready, "the end of the replica")
        assert "the replica ended" in lookup.ready().reason and lookup.ready().answers
        assert lookup.rank("u", ITEMS).hits == before.hits


def test_it_is_imported_without_what_a_server_installs() -> None:
    """A service that asks a server over HTTP may have the name beside it; numba and the rest come with `open`."""
    heavy = ["numba", "rocksdict", "confluent_kafka", "faiss", "numpy", "torch"]
    code = f"import sys; from forebay import Embedded; Embedded(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
