"""Dead letters driven again through a real broker: each event counts once, however often and however that ended."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest

from forebay.clock import HOUR_MS, MINUTE_MS
from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, decode, encode
from forebay.segments.bundle import Bundle
from forebay.store.partitionstore import PartitionStore
from forebay.streams.deadletter import DeadLetter
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.intake.accept import Rules
from forebay.streams.letterfilter import Placed
from forebay.streams.redrive import sender
from forebay.streams.redrive.judge import Verdict
from forebay.streams.topics import Topics, ensure

from .conftest import PARTITIONS

pytestmark = pytest.mark.broker

SOURCE = str(Path(__file__).parents[3] / "src")
# All that has no time of before its record is ahead of it.
STRICT = Rules(late_after_ms=24 * HOUR_MS, future_after_ms=-1)
EACH = 60  # events of each kind
KILLED = """
import os, signal
from forebay.cli.runner import run
from forebay.streams.redrive import drive, sender
drive.CHUNK_LETTERS, calls = 40, []
send = sender.Sender.send
def killed(self, verdicts):
    calls.append(0)
    if len(calls) == 3:
        send(self, verdicts[:17])
        for verdict in verdicts[17:29]:
            letter, headers = verdict.placed.letter, list(verdict.headers)
            self._producer.send(letter.topic, value=verdict.value, headers=headers, partition=letter.partition)
        os.kill(os.getpid(), signal.SIGKILL)
    return send(self, verdicts)
sender.Sender.send = killed
run()
"""
Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def redrive(kafka: DevKafka, there: Topics, tmp_path: Path) -> Run:
    """`forebay deadletters redrive …` as typed, or as `code` runs it."""

    def run(*words: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
        command = ["-m", "forebay.cli"] if code is None else ["-c", code]
        place = ["--bootstrap", kafka.bootstrap, "--prefix", there.prefix]
        done = subprocess.run(
            [sys.executable, *command, "deadletters", "redrive", *words, *place],
            check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def refused(
    there: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None], lag: Callable[..., int],
    wait_for: Callable[..., None], whole: Callable[..., list[Any]],
) -> list[Event]:  # fmt: skip
    """Events of all kinds have been refused, and come as they are to be accepted: what they lacked is of their first
    record."""
    soon = time.time_ns() // 1_000_000 + 2 * MINUTE_MS
    kinds: list[dict[str, None]] = [{}, {"time": None}, {"id": None}, {"time": None, "id": None}]
    sent: list[Event] = []
    for n in range(EACH):
        user, item = f"u{n % 7}", f"i{n % 5}"
        event = Behaviour(user, item, "rate", 1.0 + n % 5, soon + n, f"e{n}", {"genres": ["a"]})
        sent += [msgspec.structs.replace(event, **lacks) for lacks in kinds]
    publish(there.behaviour, sent)
    publish(there.behaviour, [UserProfile(f"u{n}", {"age": float(n)}) for n in range(7)])
    publish(there.item_updates, [ItemUpdate(f"i{n}", {"year": 1990.0 + n}) for n in range(5)])
    with work(there, "intake", tmp_path, rules=STRICT) as intake:
        for topic in there.sources:
            wait_for(lambda: lag(topic, intake.group, PARTITIONS) == 0 or intake.ended, topic)  # noqa: B023
    found: list[Event] = []
    for topic in there.sources:
        for m in whole(topic):
            event: Any = decode(m.value())
            name, when = f"{topic}-{m.partition()}-{m.offset()}", m.timestamp()[1]
            found.append(msgspec.structs.replace(event, time=event.time or when, id=event.id or name))
    return found


def test_a_drive_that_was_killed_and_two_more_leave_the_state_of_one(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, work: Callable[..., Any], redrive: Run,
    refused: list[Event], publish: Callable[..., None], lag: Callable[..., int], wait_for: Callable[..., None],
    whole: Callable[..., list[Any]], clean: Callable[..., list[Event]],
) -> None:  # fmt: skip
    """With the Intake and both sides at work: every event in the clean logs once, as its first record had it, and the
    same bytes in every store after the second drive as after the first."""
    old = Behaviour("u1", "i1", "rate", 1.0, time.time_ns() // 1_000_000 - 30 * HOUR_MS, "old")
    publish(there.behaviour, [(b"u1", b"{"), (b"u1", encode(old))])

    def settled(*words: str, code: str | None = None) -> tuple[int, dict[str, Any], list[str]]:
        """A drive, what it told, and the digests of all stores once everything is applied."""
        with (
            work(there, "intake", tmp_path) as intake,
            work(there, "user", tmp_path) as user,
            work(there, "item", tmp_path) as item,
        ):
            for topic in there.sources:  # what was published has its letters
                wait_for(lambda: lag(topic, intake.group, PARTITIONS) == 0, topic)  # noqa: B023
            done = redrive("--json", *words, code=code)
            reading = [(topic, intake) for topic in there.sources]
            for topic, one in [*reading, (there.events("user"), user), (there.events("item"), item)]:
                wait_for(lambda: lag(topic, one.group, PARTITIONS) == 0 or one.ended, topic)  # noqa: B023
        digests = []
        for folder in sorted(tmp_path.glob("*-[0-9]")):
            store = PartitionStore.open(folder, create=False)
            digests.append(store.digest())
            store.close()
        return done.returncode, json.loads(done.stdout or "{}"), digests

    before = {topic: len(whole(topic)) for topic in there.sources}
    code, told, nothing = settled("--dry-run")
    assert (code, told["delivered"], told["left"]) == (3, len(refused), {"undecodable": 1, "late": 1})
    assert {topic: len(whole(topic)) for topic in there.sources} == before
    code, _, part = settled(code=KILLED)
    assert code == -signal.SIGKILL
    assert 2 * 40 + 17 <= sum(len(whole(topic)) for topic in there.sources) - sum(before.values()) < len(refused)
    code, told, once = settled()
    assert (code, told["delivered"], told["failures"]) == (3, len(refused), 0)
    code, told, twice = settled()
    assert (code, told["delivered"]) == (3, len(refused))
    assert len(once) == 2 * PARTITIONS and nothing != part != once == twice

    expected = Counter((getattr(e, "user", None), getattr(e, "item", None), e.time, e.id) for e in refused)  # type: ignore[union-attr]
    acted = {key: n for key, n in expected.items() if None not in key}
    for side in ("user", "item"):
        found = Counter((e.user, e.item, e.time, e.id) for e in clean(there, side) if isinstance(e, Behaviour))
        assert found == acted
    updates = {(e.item, e.time, e.id) for e in clean(there, "item") if isinstance(e, ItemUpdate)}
    assert updates == {(e.item, e.time, e.id) for e in refused if isinstance(e, ItemUpdate)}
    letters = read_letters(kafka.bootstrap, there, 10_000)
    assert Counter(d.reason for d in letters) == {"future": len(refused), "undecodable": 1, "late": 1}


def test_a_person_is_asked_before_many_are_sent(
    kafka: DevKafka, there: Topics, tmp_path: Path, refused: list[Event], whole: Callable[..., list[Any]]
) -> None:
    """At a terminal, with their number; a script, `--yes` and a few are not asked."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
    words = [sys.executable, "-m", "forebay.cli", "deadletters", "redrive", "--bootstrap", kafka.bootstrap]

    def answered(answer: bytes, *more: str) -> tuple[int, bytes]:
        ours, theirs = pty.openpty()
        try:
            os.write(ours, answer)
            done = subprocess.run(
                [*words, "--prefix", there.prefix, *more],
                check=False, cwd=tmp_path, stdin=theirs, capture_output=True, timeout=120, env=environment,
            )  # fmt: skip
        finally:
            os.close(ours)
            os.close(theirs)
        return done.returncode, done.stdout + done.stderr

    before = sum(len(whole(topic)) for topic in there.sources)
    code, said = answered(b"n\n")
    assert code == 1 and b"Send %d records" % len(refused) in said and b"Nothing was sent" in said
    assert sum(len(whole(topic)) for topic in there.sources) == before
    code, said = answered(b"", "--source", there.item_updates)
    assert code == 0 and b"records to their" not in said
    assert answered(b"y\n", "--source", there.behaviour)[0] == answered(b"", "--yes")[0] == 0
    assert sum(len(whole(topic)) for topic in there.sources) == before + 2 * len(refused)


def test_what_is_not_acknowledged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is too large fails alone; when the broker is gone no more is tried."""
    monkeypatch.setattr(sender, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(sender, "GRACE_S", 1.0)
    with DevKafka(tmp_path / "broker") as mortal:
        topics = Topics("m.")
        ensure(mortal.bootstrap, topics, generation=None, partitions=1)

        def verdict(offset: int, value: bytes = b"{}") -> Verdict:
            letter = DeadLetter(b"k", value, "late", "", topics.behaviour, 0, offset, 1, "intake")
            return Verdict(Placed(letter, 0, offset, 1), "", b"k", value, [("h", b"1")])

        with sender.opened(mortal.bootstrap) as sending:
            mixed = sending.send([verdict(1), verdict(2, bytes(2_000_000)), verdict(3)])
            assert [f.placed.offset for f in mixed.failed] == [2] and not mixed.stopped
            mortal.kill()
            gone = sending.send([verdict(4), verdict(5)])
            assert [f.placed.offset for f in gone.failed] == [4, 5] and gone.stopped


def test_letters_go_into_a_file_for_import(
    there: Topics, tmp_path: Path, redrive: Run, refused: list[Event], publish: Callable[..., None],
    work: Callable[..., Any], lag: Callable[..., int], wait_for: Callable[..., None], whole: Callable[..., list[Any]],
) -> None:  # fmt: skip
    """Of any age, each as the Intake would have had it; what is no event is counted. Nothing is sent."""
    old = Behaviour("u1", "i1", "rate", 1.0, time.time_ns() // 1_000_000 - 30 * HOUR_MS, "old")
    publish(there.behaviour, [(b"u1", b"{"), (b"u1", encode(old))])
    with work(there, "intake", tmp_path) as intake:
        wait_for(lambda: lag(there.behaviour, intake.group, PARTITIONS) == 0, "the letters")
    before, file = len(whole(there.behaviour)), tmp_path / "letters.jsonl"
    done = redrive("--to", str(file))
    assert done.returncode == 3 and f"forebay import {file}" in done.stdout
    found = [decode(line) for line in file.read_bytes().splitlines()]
    key: Any = lambda e: (type(e).__name__, e.time, e.id)
    assert sorted(found, key=key) == sorted([*refused, old], key=key)
    assert len(whole(there.behaviour)) == before
    assert redrive("--to", str(file)).returncode == 2
    late = tmp_path / "late.jsonl"
    assert redrive("--reason", "late", "--to", str(late)).returncode == 0
    assert [decode(line) for line in late.read_bytes().splitlines()] == [old]


def test_the_whole_of_a_cut_record_is_fetched_from_its_source(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], whole: Callable[..., list[Any]], redrive: Run,
) -> None:  # fmt: skip
    """Where it is still there: behind what retention took there is another record, or none."""
    from kafka import TopicPartition

    from forebay.streams.connection import connected

    soon, long = time.time_ns() // 1_000_000 + 2 * MINUTE_MS, bytes(range(256)) * 20
    kept, gone = (encode(Behaviour("u1", "i1", "rate", 1.0, soon, name)) for name in ("kept", "gone"))
    publish(there.behaviour, [(long, gone), (long, kept), (long, bytes(70_000))], partition=1)
    with work(there, "intake", tmp_path, rules=STRICT) as intake:
        wait_for(lambda: lag(there.behaviour, intake.group, PARTITIONS) == 0, "the letters")
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.delete_records({TopicPartition(there.behaviour, 1): 1})
    told = json.loads(redrive("--json").stdout)
    assert (told["delivered"], told["left"]) == (1, {"gone": 1, "too_large": 1})
    sent = whole(there.behaviour)[-1]
    assert (sent.partition(), sent.key(), sent.value()) == (1, long, kept)
    assert dict(sent.headers())["forebay.origin.offset"] == b"1"
