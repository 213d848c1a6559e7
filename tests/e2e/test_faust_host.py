"""The example of docs/faust.md, as a team would run it; and the same in one flag."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebay.events import Behaviour, encode
from forebay.segments.bundle import Bundle
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

from .conftest import Installation

pytestmark = pytest.mark.broker
PAGE = Path(__file__).parents[2] / "docs" / "faust.md"
PARTITIONS = 2


@pytest.fixture
def made(kafka: DevKafka, tmp_path: Path, bundle: Bundle, make_history: Any) -> Installation:
    """Topics and a backfilled generation; nothing runs."""
    made, now = Installation(tmp_path, kafka), time.time_ns() // 1_000_000
    history = make_history(300, until_ms=now - 60_000)
    lines = [encode(event) for event in (*history.items, *history.profiles, *history.behaviours)]
    (tmp_path / "history.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    saved = bundle.save(tmp_path / "data" / "bundles")
    made.forebay("topics", "create")
    made.forebay("backfill", "--bundle", str(saved), "--from", str(tmp_path / "history.jsonl"))
    return made


def _get(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return dict(json.loads(answer.read()))
    except urllib.error.HTTPError as error:
        with error:
            return dict(json.loads(error.read()))
    except OSError:  # not listening yet
        return {"ready": False}


def test_the_example_of_the_page_runs_and_so_does_the_flag(
    made: Installation,
    kafka: DevKafka,
    publish: Callable[..., None],
    newest: Callable[..., Any],
    lag: Callable[..., int],
) -> None:
    """The team's agent has its events, the stages have theirs; SIGTERM ends both with everything written, and
    `forebay work --transport faust` goes on from there."""
    found = re.search(r"```python\n(# shop.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    (made.folder / "shop.py").write_text(found[1].replace("127.0.0.1:9092", kafka.bootstrap))
    topics = Topics(made.prefix)
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        if "clicks" not in admin.list_topics():
            admin.create_topics({"clicks": {"num_partitions": 1, "replication_factor": 1}})
            admin.wait_for_topics(["clicks"])
    command = [sys.executable, "-m", "faust", "-A", "shop", "worker", "--web-port", str(made.port), "-l", "info"]
    with (made.folder / "shop.log").open("wb") as log:
        shop = subprocess.Popen(command, stdout=log, stderr=log, cwd=made.folder, env=made._environment())
    made.children["shop"] = shop
    try:
        made.until(lambda: _get(f"{made.url}/forebay/ready")["ready"])
        _send(kafka, topics, "first")
        publish("clicks", [(b"k", b"hello")])
        made.until(lambda: _has(newest, topics, "first"))
        made.until(lambda: "a click: b'hello'" in made.said("shop"))
    finally:
        shop.terminate()
        assert made.children.pop("shop").wait(60) == 0, made.said("shop")
    assert "Traceback" not in made.said("shop"), made.said("shop")
    # Of the sides' logs nothing can be said: the Intake may have written the hour's tick as its last.
    assert lag(topics.behaviour, topics.intake_group, PARTITIONS) == 0

    made.start("work", "--transport", "faust", "--slot", "1")
    try:
        made.until(lambda: "ready: generation g1" in made.said("work"))
        _send(kafka, topics, "second")
        made.until(lambda: _has(newest, topics, "second"))
    finally:
        made.stop()
    assert "Traceback" not in made.said("work"), made.said("work")


def _send(kafka: DevKafka, topics: Topics, user: str) -> None:
    with EventPublisher(kafka.bootstrap, topics=topics) as publisher:
        publisher.send(Behaviour(user, "i1", "rate", 4.0))


def _has(newest: Callable[..., Any], topics: Topics, user: str) -> bool:
    return user in newest(topics.vectors("g1", "user"), PARTITIONS)
