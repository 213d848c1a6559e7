"""`forebay publish` says which events the Intake will refuse for their time, before it sends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from forebay.clock import DAY_MS, MINUTE_MS
from forebay.config import Settings
from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, encode
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.intake.accept import Rules
from forebay.streams.intake.bounds import Bounds
from forebay.streams.topics import Topics, ensure

SOURCE = str(Path(__file__).parents[1] / "src")
YEAR_2019 = 1_550_000_000_000
NOBODY = "127.0.0.1:1"  # nothing listens there: what is said was said before anything was sent


@dataclass(frozen=True)
class Said:
    """How one command ended."""

    code: int
    out: str
    err: str


Publish: TypeAlias = Callable[..., Said]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """`forebay publish` of `events`, as a file or on standard input."""

    def run(
        events: Sequence[Event | bytes], *words: str, bootstrap: str = NOBODY, stdin: bool = False, **more: str
    ) -> Said:
        data = b"".join((e if isinstance(e, bytes) else encode(e)) + b"\n" for e in events)
        (tmp_path / "events.jsonl").write_bytes(data)
        source = "-" if stdin else "events.jsonl"
        environment = (
            {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE} | more
        )
        done = subprocess.run(
            [sys.executable, "-m", "forebay.cli", "publish", source, "--bootstrap", bootstrap, *words],
            check=False, cwd=tmp_path, capture_output=True, input=data if stdin else b"", timeout=120, env=environment,
        )  # fmt: skip
        said = Said(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in said.err
        return said

    return run


def _acts(count: int, time_ms: int | None) -> list[Event]:
    return [Behaviour("u1", "i1", "rate", 1.0, None if time_ms is None else time_ms + n, f"e{n}") for n in range(count)]


def _now() -> int:
    return time.time_ns() // 1_000_000


def test_a_file_of_old_events_is_warned_of_before_anything_is_sent(publish: Publish) -> None:
    """How many, the oldest, the bound and what to do instead: nobody listens, and it is said all the same."""
    said = publish(_acts(1000, YEAR_2019))
    assert said.code == 1 and "no Kafka broker answers" in said.err
    warning, remedy = said.err.splitlines()[:2]
    assert warning.startswith("warning: 1,000 of 1,000 events are older than 1d, the oldest of 2019-02-12 19:33 UTC")
    assert "the Intake will refuse them as late" in warning
    assert "forebay backfill --from FILE" in remedy and "late_after in the settings" in remedy


def test_the_bound_is_that_of_the_settings(publish: Publish, tmp_path: Path) -> None:
    """Of the environment or of forebay.toml: ten days are too late for the default, and fine where 30 are allowed."""
    assert "3 of 3 events are older than 1d" in publish(_acts(3, _now() - 10 * DAY_MS)).err
    assert "warning" not in publish(_acts(3, _now() - 10 * DAY_MS), FOREBAY_LATE_AFTER="30d").err
    (tmp_path / "forebay.toml").write_text('late_after = "30d"\n')
    assert "warning" not in publish(_acts(3, _now() - 10 * DAY_MS)).err
    assert "3 of 3 events are older than 30d" in publish(_acts(3, _now() - 31 * DAY_MS)).err


def test_what_nobody_sets_is_what_the_intake_goes_by() -> None:
    """The defaults of both are the same ones."""
    bounds, rules = Bounds.of(Settings()), Rules()
    assert (bounds.late_after_ms, bounds.future_after_ms) == (rules.late_after_ms, rules.future_after_ms)


@pytest.mark.parametrize("name", ["late_after", "future_after"])
def test_a_bound_that_is_no_duration_is_refused_by_its_name(publish: Publish, name: str) -> None:
    """Before anything is sent, with what a duration looks like."""
    said = publish(_acts(1, _now()), **{f"FOREBAY_{name.upper()}": "soon"})
    assert said.code == 2 and f"({name})" in said.err and '"30s"' in said.err and "broker" not in said.err


def test_only_what_the_intake_would_refuse_is_counted(publish: Publish) -> None:
    """Attributes of any age are folded, an event without a time is of now, and a line that is no event has a refusal of
    its own."""
    fine: list[Event] = [
        UserProfile("u1", {}, YEAR_2019, "p"), ItemUpdate("i1", {}, YEAR_2019, "i"), *_acts(2, None),
        *_acts(2, _now() - 3_600_000),
    ]  # fmt: skip
    assert "warning" not in publish(fine).err
    said = publish([*fine, b"{", b"x" * 300_000, *_acts(1, YEAR_2019)])
    assert "warning: 1 of 7 events" in said.err


def test_events_from_the_future_are_warned_of_as_well(publish: Publish) -> None:
    """Seconds as milliseconds are of 1970, nanoseconds of the year 50,000: both are an error of units."""
    events = [*_acts(2, _now() + 600_000), ItemUpdate("i1", {}, 1 << 52, "i")]
    said = publish(events)
    assert "3 of 3 events are more than 5m ahead" in said.err and f"{1 << 52} ms since 1970" in said.err
    assert "the Intake will refuse them as future" in said.err
    assert "milliseconds since 1970" in said.err
    assert "1 of 3 events are more than 1h ahead" in publish(events, FOREBAY_FUTURE_AFTER="1h").err


@pytest.mark.broker
def test_the_events_are_sent_and_programs_are_told(publish: Publish, kafka: DevKafka, topics: Topics) -> None:
    """A warning is no failure: the Intake may have other settings. The count is in the JSON."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=1)
    said = publish(_acts(50, YEAR_2019), "--prefix", topics.prefix, "--json", bootstrap=kafka.bootstrap)
    told = json.loads(said.out)
    assert (said.code, told["acknowledged"], told["refused"]) == (0, 50, 0)
    assert (told["late"], told["oldest"], told["late_after_ms"], told["future"]) == (50, YEAR_2019, DAY_MS, 0)
    assert told["future_after_ms"] == 5 * MINUTE_MS


@pytest.mark.broker
def test_standard_input_is_warned_of_at_once_and_summed_up_at_the_end(
    publish: Publish, kafka: DevKafka, topics: Topics
) -> None:
    """It cannot be read twice: the first late event is told, then how many there were."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=1)
    events = [*_acts(3, _now()), *_acts(40, YEAR_2019)]
    said = publish(events, "--prefix", topics.prefix, bootstrap=kafka.bootstrap, stdin=True)
    warnings = [line for line in said.err.splitlines() if line.startswith("warning")]
    assert said.code == 0 and "43 events acknowledged" in said.out
    assert len(warnings) == 2 and "1 of 4 events" in warnings[0] and "40 of 43 events" in warnings[1]
