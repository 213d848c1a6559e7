"""`forebay deadletters list` and `show` over a real topic, and what a worker says of the records it refuses."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from forebay.cli.letterflags import LetterFlags
from forebay.cli.letterlog import EVERY_S, LetterLog, letters_logged
from forebay.clock import HOUR_MS
from forebay.errors import EventError, UsageError
from forebay.streams.connection import connected
from forebay.streams.deadletter import DeadLetter
from forebay.streams.deadletters import MAX_REASONS, reasons
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.telemetry import emit

SOURCE = str(Path(__file__).parents[2] / "src")
Verb: TypeAlias = Callable[..., subprocess.CompletedProcess[bytes]]
NASTY = b"\x1b]0;owned\x07\x00\xff" + bytes(range(256))


def _letter(reason: str, offset: int, value: bytes | None, topic: str = "shop-behaviour") -> DeadLetter:
    return DeadLetter.of(
        EventError(reason, "why it was refused"), key=b"u1", value=value, topic=topic, partition=3, offset=offset,
        append_time=1_790_000_000_000, processor="user",
    )  # fmt: skip


@pytest.fixture
def written(kafka: DevKafka, topics: Topics) -> Callable[..., list[int]]:
    """Puts letters into the topic of this test; returns their own offsets."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=1)

    def write(*letters: DeadLetter) -> list[int]:
        with connected("KafkaProducer", kafka.bootstrap) as producer:
            sent = []
            for letter in letters:
                key, value, headers = letter.to_record()
                sent.append(producer.send(topics.dead_letters, key=key, value=value, headers=headers))
            producer.flush()
        return [future.get(10).offset for future in sent]

    return write


@pytest.fixture
def verb(kafka: DevKafka, topics: Topics, tmp_path: Path) -> Verb:
    """`forebay deadletters …` as typed."""

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
        place = ["--bootstrap", kafka.bootstrap, "--prefix", topics.prefix]
        done = subprocess.run(
            [sys.executable, "-m", "forebay.cli", "deadletters", *words, *place],
            check=False, cwd=tmp_path, capture_output=True, timeout=120, env=environment,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr
        return done

    return run


@pytest.mark.broker
def test_reasons_are_listed_with_the_newest_of_each(written: Callable[..., list[int]], verb: Verb) -> None:
    """Count, when, and coordinates that `show` takes."""
    offsets = written(_letter("late", 1, b"{}"), _letter("undecodable", 2, b"{"), _letter("late", 9, b"{}"))
    told = json.loads(verb("list", "--json").stdout)
    assert [(r["reason"], r["count"], r["example"]) for r in told] == [
        ("late", 2, "shop-behaviour-3-9"),
        ("undecodable", 1, "shop-behaviour-3-2"),
    ]
    assert told[0]["letter"] == f"0:{offsets[2]}"
    table = verb("list").stdout.decode().splitlines()
    assert table[0].split() == ["reason", "count", "newest", "example", "letter"]
    assert table[1].split()[:2] == ["late", "2"] and "shop-behaviour-3-9" in table[1]
    assert json.loads(verb("list", "--json", "--last", "1").stdout)[0]["count"] == 1


@pytest.mark.broker
def test_letters_are_chosen_by_reason_source_and_time(written: Callable[..., list[int]], verb: Verb) -> None:
    """The same words for `list` and `show`, alone and together; `show` without a place takes the newest."""
    _, at = written(_letter("late", 1, b"1"), _letter("undecodable", 2, b"2")), time.time_ns() // 1_000_000 + 5
    time.sleep(0.02)
    written(_letter("late", 3, b"3", topic="shop-updates"), _letter("late", 4, b"4"))

    def listed(*words: str) -> dict[str, tuple[int, str]]:
        return {r["reason"]: (r["count"], r["example"]) for r in json.loads(verb("list", "--json", *words).stdout)}

    both = {"late": (3, "shop-behaviour-3-4"), "undecodable": (1, "shop-behaviour-3-2")}
    assert (
        listed()
        == listed("--since", "2h")
        == listed("--source", "shop-behaviour", "--source", "shop-updates/3")
        == both
    )
    assert listed("--reason", "undecodable", "--reason", "bad_id") == {"undecodable": both["undecodable"]}
    assert listed("--source", "shop-updates") == {"late": (1, "shop-updates-3-3")}
    assert listed("--source", "shop-behaviour/2") == {}
    before = {"late": (1, "shop-behaviour-3-1"), "undecodable": (1, "shop-behaviour-3-2")}
    assert listed("--until", str(at)) == before
    moment = datetime.fromtimestamp(at / 1000, UTC)
    assert (
        listed("--since", moment.isoformat())
        == listed("--since", f"{moment:%Y-%m-%dT%H:%M:%S.%f}")
        == {"late": (2, "shop-behaviour-3-4")}
    )
    assert listed("--since", "1h", "--until", str(at), "--reason", "late", "--source", "shop-behaviour/3") == {
        "late": before["late"]
    }
    assert verb("show", "--raw", "--until", str(at)).stdout == b"2"
    assert verb("show", "--raw", "--reason", "late", "--source", "shop-updates").stdout == b"3"
    assert verb("show", "--raw", "shop-behaviour-3-4", "--reason", "late").stdout == b"4"
    missing = verb("show", "shop-behaviour-3-4", "--until", str(at))
    assert missing.returncode == 1 and b"until" in missing.stderr
    assert b"reason late" in verb("list", "--reason", "late", "--until", "1h").stdout


@pytest.mark.parametrize(
    "flags",
    [{"since": "soon"}, {"since": "1h", "until": "2h"}, {"sources": ["t/x"]}, {"sources": ["/1"]}, {"until": "2h ago"}],
)
def test_a_filter_that_cannot_be_is_refused(flags: dict[str, Any]) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError):
        LetterFlags(**flags).filter()


def test_a_duration_is_how_long_ago() -> None:
    """A date is of UTC where it does not say another zone."""
    found = LetterFlags(since="2026-11-27", until="2026-11-27T02:00+01:00").filter()
    assert found.until_ms - found.since_ms == HOUR_MS
    ago = LetterFlags(since="3h", until="1h").filter()
    assert ago.until_ms - ago.since_ms == 2 * HOUR_MS


@pytest.mark.broker
def test_an_empty_topic_has_no_reasons(written: Callable[..., list[int]], verb: Verb) -> None:
    """Nothing is wrong: exit code 0 and a sentence."""
    done = verb("list")
    assert done.returncode == 0 and b"No dead letters" in done.stdout
    assert json.loads(verb("list", "--json").stdout) == []


@pytest.mark.broker
def test_reasons_that_strangers_made_up_do_not_fill_memory(
    written: Callable[..., list[int]], kafka: DevKafka, topics: Topics
) -> None:
    """Past a hundred they are counted together, and a long one is cut."""
    written(*(_letter(f"r{n}-" + "x" * 100, n, b"") for n in range(MAX_REASONS + 20)))
    found = {r.reason: r.count for r in reasons(kafka.bootstrap, topics)}
    assert len(found) == MAX_REASONS + 1 and found["(other)"] == 20
    assert max(map(len, found)) == 64


@pytest.mark.broker
def test_a_letter_is_shown_by_its_records_place_or_its_own(written: Callable[..., list[int]], verb: Verb) -> None:
    """The newest one of the record; text as text."""
    (own, _) = written(_letter("late", 7, b'{"user": "u1"}\nsecond line'), _letter("late", 8, None))
    page = verb("show", "shop-behaviour-3-7").stdout.decode()
    assert page == verb("show", str(own)).stdout.decode() == verb("show", f"0:{own}").stdout.decode()
    assert "reason      late" in page and "why it was refused" in page and "record      shop-behaviour-3-7" in page
    assert '    {"user": "u1"}\n    second line\n' in page and "    u1\n" in page
    assert "value       none" in verb("show", "shop-behaviour-3-8").stdout.decode()
    missing = verb("show", "shop-behaviour-3-77")
    assert missing.returncode == 1 and b"no dead letter" in missing.stderr and b"deadletters list" in missing.stderr
    assert verb("show", "nonsense").returncode == 2


@pytest.mark.broker
def test_bytes_of_a_stranger_do_not_command_the_terminal(written: Callable[..., list[int]], verb: Verb) -> None:
    """A hex dump where there are control characters, escapes in headers and keys; --raw is what was kept, byte by
    byte."""
    headers = [("forebay.reason", b"\x1b[31m[bold]red"), ("forebay.topic", "t\u202e".encode())]
    letter = DeadLetter.from_record(b"\x1b[2J", NASTY, headers)
    (own,) = written(letter)
    page = verb("show", str(own)).stdout
    for output in (page, verb("list").stdout):
        assert not any(byte < 32 and byte != 10 for byte in output) and b"\x7f" not in output
        assert "\u202e" not in output.decode()
    assert b"00000000  1b 5d 30 3b 6f 77 6e 65 64 07 00 ff" in page and b"]0;owned" in page
    assert b"[bold]red" in verb("list").stdout
    assert verb("show", str(own), "--raw").stdout == NASTY
    told = json.loads(verb("show", str(own), "--json").stdout)
    assert base64.b64decode(told["value_base64"]) == NASTY and told["value"] is None


@pytest.mark.broker
def test_a_cut_letter_says_where_the_whole_is(written: Callable[..., list[int]], verb: Verb) -> None:
    """Only the beginning is printed, only 64 KiB are kept, and neither is passed over in silence."""
    (own,) = written(_letter("too_large", 5, "é".encode() * 400_000))
    page = verb("show", str(own)).stdout.decode()
    assert "value       800,000 bytes, SHA-256 " in page and "… 61,440 bytes more: --raw" in page
    assert "holds the first 65,536 of 800,000 bytes; the whole is in shop-behaviour-3-5" in page
    raw = verb("show", str(own), "--raw")
    assert len(raw.stdout) == 65_536 and b"of 800,000 bytes" in raw.stderr


def test_a_worker_tells_of_refused_records_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first batch at once and whole, the next ones together after a minute, by reason."""
    now = [1000.0]
    letters = LetterLog(lambda: now[0])

    def batch(*refused: str) -> list[str]:
        caplog.clear()
        for reason in refused:
            letters("dead_letter", {"stage": "intake", "reason": reason})
        letters("step", {"number": 1, "name": "accept", "stage": "intake"})
        return [r.getMessage() for r in caplog.records]

    with caplog.at_level(logging.WARNING, "forebay.deadletters"):
        assert batch() == []
        (line,) = batch("late", "late", "undecodable")
        assert line.startswith("records refused: 2 late, 1 undecodable.")
        assert "forebay deadletters list" in line
        now[0] += EVERY_S - 1
        assert batch(*["late"] * 1000) == []
        now[0] += 1
        (line,) = batch()  # a heartbeat is enough: the last refusals of a flood are told as well
        assert "1,000 late" in line
        now[0] += 10 * EVERY_S
        assert batch() == []


def test_what_a_worker_has_not_told_yet_it_tells_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Also when it ends by an error; and the hook is off afterwards."""
    with caplog.at_level(logging.WARNING, "forebay.deadletters"):
        with pytest.raises(RuntimeError), letters_logged():
            emit("dead_letter", stage="intake", reason="future")
            raise RuntimeError
        emit("dead_letter", stage="intake", reason="future")
        emit("step", number=2, name="accept", stage="intake")
    (record,) = caplog.records
    assert "1 future" in record.getMessage()
