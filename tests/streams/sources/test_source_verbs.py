"""`forebay source list` and `check` over real topics: what records become, read without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from forebay.clock import now_ms
from forebay.events import Behaviour, encode
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure

pytestmark = pytest.mark.broker
SOURCE = str(Path(__file__).parents[3] / "src")
NASTY = b"\x1b]0;owned\x07\x00\xff" + bytes(range(256))
Verb: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def verb(kafka: DevKafka, topics: Topics, tmp_path: Path) -> Verb:
    """`forebay …` as typed, where a forebay.toml has the tables."""
    file = tmp_path / "forebay.toml"
    name = f"{topics.prefix}shop.clicks"
    file.write_text(
        f'bootstrap = "{kafka.bootstrap}"\ntopic_prefix = "{topics.prefix}"\n'
        f'[[source]]\ntopic = "{name}"\nformat = "json"\n'
        'map = { user = "who", item = "what", action = "did", time = "ts", id = "id" }\n'
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
        return subprocess.run(
            [sys.executable, "-m", "forebay.cli", *words], capture_output=True, text=True, check=False, timeout=120,
            cwd=tmp_path, env=environment,
        )  # fmt: skip

    return run


@pytest.fixture
def filled(
    kafka: DevKafka, topics: Topics, their_topic: Callable[..., str], publish: Callable[..., None]
) -> Callable[[], str]:
    """A topic with 117 good records, of which two are the same, and four that are none."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=2)

    def fill() -> str:
        name, now = their_topic("shop.clicks"), now_ms()
        rows = [{"who": f"u{n}", "what": "i", "did": "click", "ts": now, "id": f"e{n}"} for n in range(116)]
        good = [(b"k", msgspec.json.encode(row)) for row in [*rows, rows[-1]]]
        bad = [NASTY, b'{"who":"u1","what":"i","ts":1,"did":"click"}', b'{"what":"i","ts":1,"did":"c"}', None]
        publish(name, [*good, *((None, value) for value in bad)], 0)
        publish(topics.behaviour, [Behaviour("u0", "i1", "view", 1.0, now, "e0")])
        return name

    return fill


def test_check_shows_what_the_newest_records_become(
    verb: Verb, filled: Callable[[], str], topics: Topics, kafka: DevKafka
) -> None:
    """Counts of each outcome and examples, for people and for programs; no group knows of it."""
    name = filled()
    done = verb("source", "check", "--json")
    assert done.returncode == 3, done.stderr
    ours, updates, theirs = json.loads(done.stdout)
    assert [r["topic"] for r in (ours, updates, theirs)] == [topics.behaviour, topics.item_updates, name]
    assert ours["outcomes"] == {"behaviour": 1} and updates["records"] == 0 and theirs["format"] == "json"
    # The newest hundred of one of two partitions are its newest fifty.
    assert theirs["outcomes"] == {
        "behaviour": 45, "a duplicate of another of these": 1, "refused, late": 1, "refused, no_field": 1,
        "refused, undecodable": 1, "refused, empty": 1,
    }  # fmt: skip
    example = next(e for e in theirs["examples"] if e["outcome"] == "accepted")
    assert example["event"]["user"] == json.loads(example["record"])["who"]
    assert next(e for e in theirs["examples"] if e["reason"] == "no_field")["message"] == "nothing at who for user"

    told = verb("source", "check", name)
    assert told.returncode == 3 and topics.behaviour not in told.stdout
    assert "refused, undecodable" in told.stdout and "\x1b" not in told.stdout and "\x07" not in told.stdout
    assert '"user":"u115"' in told.stdout and '→ {"type":"behaviour"' in told.stdout
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        assert not [group for group in admin.list_groups() if topics.prefix in str(group)]


def test_a_source_without_fault_is_no_partial_success(
    verb: Verb, topics: Topics, kafka: DevKafka, publish: Callable[..., None], their_topic: Callable[..., str]
) -> None:
    """Exit code 0, and one line where nothing is there."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=2)
    their_topic("shop.clicks", 1)
    publish(topics.behaviour, [(b"u", encode(Behaviour("u", "i", "a", 1.0, now_ms(), "e")))])
    done = verb("source", "check")
    assert done.returncode == 0 and "Nothing is in it." in done.stdout


def test_sources_are_listed_with_whose_times_they_have(verb: Verb, filled: Callable[[], str], topics: Topics) -> None:
    """Ours have the log's."""
    name = filled()
    rows = {row["topic"]: row for row in json.loads(verb("source", "list", "--json").stdout)}
    assert rows[name] | {"keeps": ""} == {
        "topic": name, "format": "json", "partitions": 2, "times": "the producers'", "keeps": ""
    }  # fmt: skip
    assert rows[topics.behaviour]["format"] == "ours" and rows[topics.behaviour]["times"] == "the log's"
    assert name in verb("source", "list").stdout


def test_a_topic_that_is_no_source_is_refused(verb: Verb, topics: Topics) -> None:
    """With the names of those that are."""
    done = verb("source", "check", "elsewhere")
    assert done.returncode == 2 and "'elsewhere' is no source" in done.stderr and topics.behaviour in done.stderr


def test_doctor_looks_at_each_foreign_source(verb: Verb, filled: Callable[[], str]) -> None:
    """A line for it, with the command that shows more."""
    name = filled()
    checks = {check["name"]: check for check in json.loads(verb("doctor", "--json").stdout)}
    line = checks[f"source {name}"]
    assert not line["ok"] and "4 refused" in line["found"] and line["remedy"] == f"Run: forebay source check {name}"
