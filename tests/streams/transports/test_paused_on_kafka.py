"""A source whose schema broke, on a real broker: it stands still, the others go on, and nothing claims more."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from forebay.cli.doctor import _Doctor
from forebay.cli.readiness import Readiness
from forebay.cli.status import Status
from forebay.config import load
from forebay.events import Behaviour, Event, ItemUpdate
from forebay.segments.bundle import Bundle
from forebay.store.codec import HEARTBEAT_KEY, codec_of, unpack_heartbeat
from forebay.streams.deadletters import count
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.intake.breaker import BreakerOptions
from forebay.streams.offsets import committed
from forebay.streams.topics import Topics
from forebay.streams.worker.options import WorkerOptions

from .conftest import PARTITIONS

pytestmark = pytest.mark.broker

BATCH = 500
OPTIONS = WorkerOptions(batch_records=BATCH, heartbeat_interval_s=0.2, flush_interval_s=0.2)
BREAKER = BreakerOptions(records=200, retry_s=1.0, most_retry_s=2.0)
GARBAGE = 20_000


def _answers(readiness: Readiness) -> AbstractContextManager[str]:
    return Status(readiness.waits, str, lambda accept: (b"", ""), readiness.paused, readiness.resumed).served_at(
        "127.0.0.1:0"
    )


def _now() -> int:
    return time.time_ns() // 1_000_000


def test_a_source_that_turns_to_garbage_stands_still_until_it_is_well_or_told_to_go_on(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, work: Callable[..., Any],
    publish: Callable[..., None], lag: Callable[..., int], wait_for: Callable[..., None],
    whole: Callable[..., list[Any]], clean: Callable[..., list[Event]],
) -> None:  # fmt: skip
    """Few letters, whatever there is; the other source goes on; `as_of` of both sides stays before the first record
    that is not read. A command reads all that waits; good records that follow let it go on by itself."""
    sent = 0

    def good(number: int) -> None:
        nonlocal sent
        events = [Behaviour(f"u{n % 7}", f"i{n % 5}", "rate", 1.0, _now(), f"e{sent + n}") for n in range(number)]
        publish(there.behaviour, events)
        sent += number

    def claims() -> Iterator[int]:
        """All moments that records of both sides' vectors have claimed."""
        for side in ("user", "item"):
            codec = codec_of(bundle, "user" if side == "user" else "item")
            for message in whole(there.vectors("g1", side)):
                if message.key() == HEARTBEAT_KEY:
                    yield unpack_heartbeat(message.value())
                elif message.value() is not None:
                    rows, _ = codec.unpack([message.value()])
                    yield from (int(rows["segments"][slot.name]["as_of"][0]) for slot in codec.segments)

    def unread() -> list[Any]:
        """The first record of each partition of the source that is not accepted yet."""
        from confluent_kafka import Consumer

        asked = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": there.intake_group})
        starts = {p: committed(asked, there.behaviour, p) or 0 for p in range(PARTITIONS)}
        asked.close()
        found = [[m for m in whole(there.behaviour) if m.partition() == p and m.offset() >= starts[p]] for p in starts]
        return [messages[0] for messages in found if messages]

    def letters() -> int:
        return sum(count(kafka.bootstrap, there).values())

    with (
        work(there, "intake", tmp_path, options=OPTIONS, breaker=BREAKER) as intake,
        work(there, "user", tmp_path, options=OPTIONS) as user,
        work(there, "item", tmp_path, options=OPTIONS) as item,
        _answers(Readiness([intake.worker, user.worker], "")) as url,
    ):
        good(200)
        wait_for(lambda: max(claims(), default=0) > _now() - 5000, "a claim")
        publish(there.behaviour, [(b"u%d" % n, b'{"v": 2}') for n in range(GARBAGE)])
        wait_for(lambda: "is paused" in intake.worker.paused(), "the pause")
        stood = letters()
        assert 100 < stood <= 2 * BREAKER.records + 2 * BATCH
        with urllib.request.urlopen(f"{url}/ready", timeout=10) as ready:
            assert f"{there.behaviour} is paused" in json.load(ready)["reason"]
        paused = _now()
        for n in range(5):
            publish(there.item_updates, [ItemUpdate("i1", {"year": 1990.0 + n}, _now(), f"up{n}")])
            time.sleep(1)
        wait_for(lambda: lag(there.item_updates, intake.group, PARTITIONS) == 0, "the other source")
        wait_for(lambda: lag(there.events("item"), item.group, PARTITIONS) == 0, "its events")
        first = unread()
        assert len(first) == PARTITIONS and letters() == stood and not intake.ended
        assert max(claims()) <= min(m.timestamp()[1] for m in first) < paused
        check = _Doctor(
            load({"bootstrap": kafka.bootstrap, "topic_prefix": there.prefix}, environment={})[0]
        )._sources()
        assert not check.ok and f"{there.behaviour} is paused for" in check.found

        done = subprocess.run(
            [sys.executable, "-m", "forebay.cli", "source", "resume", there.behaviour, "--status", url],
            check=True, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "intake" in done.stdout
        wait_for(lambda: lag(there.behaviour, intake.group, PARTITIONS) == 0, "all that waited")
        assert letters() == GARBAGE and not intake.worker.paused()
        wait_for(lambda: min(p.meta.as_of for p in user.stage.partitions.values()) > paused, "as_of after that")

        publish(there.behaviour, [(b"u%d" % n, b'{"v": 2}') for n in range(GARBAGE)])
        wait_for(lambda: "is paused" in intake.worker.paused(), "another pause")
        assert letters() < 2 * GARBAGE
        good(400)
        wait_for(lambda: lag(there.behaviour, intake.group, PARTITIONS) == 0, "going on by itself", 60)
        assert letters() == 2 * GARBAGE and not intake.worker.paused()
        for side, one in (("user", user), ("item", item)):
            wait_for(lambda: lag(there.events(side), one.group, PARTITIONS) == 0, side)  # noqa: B023
    for side in ("user", "item"):
        found = Counter(e.id for e in clean(there, side) if isinstance(e, Behaviour))
        assert found == Counter(f"e{n}" for n in range(sent))
