"""What would become of a letter's record now, and which record it would be: without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from forebay.clock import HOUR_MS, MINUTE_MS, now_ms
from forebay.errors import EventError
from forebay.events import Behaviour, ItemUpdate, UserProfile, decode, encode
from forebay.streams.deadletter import MAX_KEY_BYTES, DeadLetter
from forebay.streams.intake.accept import Rules
from forebay.streams.letterfilter import Placed
from forebay.streams.origin import Origin
from forebay.streams.redrive import drive as drives
from forebay.streams.redrive import judge as judges
from forebay.streams.redrive.drive import Driven, drive
from forebay.streams.redrive.judge import Judge, Verdict
from forebay.streams.redrive.originals import Original
from forebay.streams.redrive.sender import Delivery, Failure

NOW = now_ms()
GOOD = encode(Behaviour("u", "i", "rate", 1.0, NOW - MINUTE_MS, "e"))
PARTITIONS = {"behaviour": 3, "item-updates": 1}


def _letter(value: bytes | None, offset: int = 0, **more: Any) -> Placed:
    fields: dict[str, Any] = {
        "key": b"u", "topic": "behaviour", "partition": 1, "append_time": NOW - 2 * HOUR_MS, "processor": "intake",
        "reason": "undecodable",
    }  # fmt: skip
    fields |= more
    error = EventError(fields.pop("reason"), "why")
    return Placed(DeadLetter.of(error, value=value, offset=offset, **fields), 0, offset, NOW)


def _judged(*letters: Placed, original: Original | None = None, **more: Any) -> list[Verdict]:
    events = more.pop("events", False)
    return Judge(PARTITIONS, more.pop("rules", Rules()), **more).judge(letters, lambda _: original, events=events)


def test_what_would_be_accepted_goes_back_with_where_it_was_first() -> None:
    """Key, value and its own headers as they were; a copy's origin is that of the first."""
    first = Origin("behaviour", 1, 3, NOW - 9 * HOUR_MS)
    plain, copy = _judged(
        _letter(GOOD, 7, headers=[("schema", b"1")]), _letter(GOOD, 9, headers=[*first.to_headers(), ("x", b"")])
    )
    assert (plain.reason, plain.key, plain.value) == ("", b"u", GOOD)
    assert plain.headers == [("schema", b"1"), *Origin("behaviour", 1, 7, NOW - 2 * HOUR_MS).to_headers()]
    assert (copy.reason, copy.headers) == ("", [("x", b""), *first.to_headers()])


def test_what_would_be_refused_again_is_told_by_reason() -> None:
    """In order, letters of several sources among one another; nothing is known of duplicates."""
    late = encode(Behaviour("u", "i", "rate", 1.0, NOW - 25 * HOUR_MS, "e"))
    future = encode(Behaviour("u", "i", "rate", 1.0, NOW + HOUR_MS, "e"))
    update = encode(ItemUpdate("i", {}, NOW - 99 * HOUR_MS, "e"))
    found = _judged(
        _letter(b"{", 1), _letter(GOOD, 2), _letter(late, 3), _letter(update, 4, topic="item-updates", partition=0),
        _letter(None, 5), _letter(GOOD, 6, partition=2), _letter(future, 7), _letter(GOOD, 8),
    )  # fmt: skip
    assert [v.reason for v in found] == ["undecodable", "", "late", "", "empty", "", "future", ""]
    assert [v.placed.offset for v in found] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_intakes_memory_decides_what_is_late() -> None:
    """As the rules that the settings have now."""
    value = encode(Behaviour("u", "i", "rate", 1.0, NOW - 3 * HOUR_MS, "e"))
    (whole,) = _judged(_letter(value), since={"behaviour/2": NOW})
    (forgotten,) = _judged(_letter(value), since={"behaviour/1": NOW - 2 * HOUR_MS})
    (strict,) = _judged(_letter(value), rules=Rules(late_after_ms=HOUR_MS))
    assert [v.reason for v in (whole, forgotten, strict)] == ["", "late", "late"]


def test_an_event_without_a_time_is_as_old_as_its_first_record() -> None:
    """The letter of yesterday's record is late tomorrow."""
    value = encode(Behaviour("u", "i", "rate", 1.0))
    young, old = _judged(_letter(value, 1), _letter(value, 2, append_time=NOW - 25 * HOUR_MS))
    assert (young.reason, old.reason) == ("", "late")


def test_strangers_are_not_sent_anywhere() -> None:
    """A letter names the topic that it would be sent to, and anybody may have written it."""
    foreign = Placed(DeadLetter.from_record(b"k", GOOD, []), 0, 1, NOW)
    elsewhere = _letter(GOOD, 2, topic="payments")
    gone = _letter(GOOD, 3, partition=3)
    assert [v.reason for v in _judged(foreign, elsewhere, gone)] == [
        judges.NO_ORIGIN, judges.ELSEWHERE, judges.ELSEWHERE,
    ]  # fmt: skip


def test_several_letters_of_one_record_are_one() -> None:
    """A copy that was refused again has a letter, too: else every drive would send twice as many."""
    first = Origin("behaviour", 1, 3, NOW - HOUR_MS)
    copies = [_letter(GOOD, offset, headers=first.to_headers()) for offset in (50, 51)]
    found = _judged(_letter(GOOD, 3), *copies, _letter(GOOD, 4))
    assert [v.reason for v in found] == ["", judges.TWICE, judges.TWICE, ""]


def test_memory_of_records_that_were_met_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten: a second copy of one is then sent, and dropped by the Intake."""
    monkeypatch.setattr(judges, "KEPT", 2)
    found = _judged(*(_letter(GOOD, offset) for offset in (1, 2, 2, 3, 1)))
    assert [v.reason for v in found] == ["", "", judges.TWICE, "", ""]


def test_what_the_broker_refused_goes_only_when_it_is_named() -> None:
    """It would be refused again, until the topics take larger records."""
    letter = _letter(GOOD, reason="refused").letter.without_content()
    placed, original = Placed(letter, 0, 0, NOW), Original(b"u", GOOD, [("h", b"1")])
    assert [v.reason for v in _judged(placed, original=original)] == [judges.REFUSED]
    (sent,) = _judged(placed, original=original, insist=True)
    assert (sent.reason, sent.key, sent.value, sent.headers[0]) == ("", b"u", GOOD, ("h", b"1"))
    assert [v.reason for v in _judged(placed, insist=True)] == [judges.GONE]


def test_a_part_of_a_record_is_not_sent_for_the_whole() -> None:
    """The whole is looked for where it can be an event at all."""
    asked: list[int] = []

    def whole(letter: DeadLetter) -> Original | None:
        asked.append(letter.offset)
        return Original(bytes(MAX_KEY_BYTES + 1), GOOD, []) if letter.offset == 1 else None

    letters = [
        _letter(GOOD, 1, key=bytes(MAX_KEY_BYTES + 1)), _letter(GOOD, 2, key=bytes(MAX_KEY_BYTES + 1)),
        _letter(bytes(70_000), 3),
    ]  # fmt: skip
    found = Judge(PARTITIONS, Rules()).judge(letters, whole)
    assert [v.reason for v in found] == ["", judges.GONE, "too_large"] and asked == [1, 2]
    assert found[0].key == bytes(MAX_KEY_BYTES + 1)


def test_events_are_as_the_intake_would_have_them() -> None:
    """Complete, so that an import identifies them as the stream would: of any kind, in the order of the letters."""
    bare = encode(Behaviour("u", "i", "rate", 1.0, attributes={"a": ["b"]}))
    profile = UserProfile("u", {"age": 3.0}, NOW - 99 * HOUR_MS, "p")
    letters = [
        _letter(bare, 5, append_time=NOW - 99 * HOUR_MS), _letter(encode(profile), 6, partition=0), _letter(b"{", 7),
        _letter(GOOD, 8),
    ]  # fmt: skip
    found = _judged(*letters, rules=Rules(1 << 62), events=True)
    told = Behaviour("u", "i", "rate", 1.0, NOW - 99 * HOUR_MS, "behaviour-1-5", attributes={"a": ["b"]})
    assert [v.reason for v in found] == ["", "", "undecodable", ""]
    assert [decode(v.event) if v.event else None for v in found] == [told, profile, None, decode(GOOD)]


class _Letters:
    """Some letters, as a topic has them."""

    def __init__(self, letters: Sequence[Placed]) -> None:
        self.letters = letters

    def read(self, told: Any) -> Any:
        yield from self.letters


def _drive(letters: Sequence[Placed], deliver: Any) -> Driven:
    judge: Any = Judge(PARTITIONS, Rules())
    found: Any = _Letters(letters)
    return drive(found, judge, lambda _: None, deliver, lambda done, total: None)


def test_a_drive_counts_what_was_delivered_left_and_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, whatever there are; the names of failures are bounded."""
    monkeypatch.setattr(drives, "CHUNK_LETTERS", 3)
    monkeypatch.setattr(drives, "MOST_NAMED", 2)
    sizes = []

    def deliver(verdicts: Sequence[Verdict]) -> Delivery:
        sizes.append(len(verdicts))
        return Delivery([Failure(v.placed, "no") for v in verdicts if v.placed.offset in (1, 4, 5)])

    driven = _drive([_letter(b"{" if n == 2 else GOOD, n) for n in range(8)], deliver)
    assert sizes == [2, 3, 2]
    assert (driven.letters, driven.delivered, driven.failures, driven.left) == (8, 4, 3, {"undecodable": 1})
    assert [f.placed.offset for f in driven.failed] == [1, 4]
    assert _drive([_letter(bytes(60_000), n) for n in range(300)], deliver).letters == 300


def test_a_drive_holds_so_many_bytes_at_a_time_by_the_whole_records() -> None:
    """A letter has 64 KiB of a record of a megabyte, and the whole is fetched."""
    calls = []
    _drive([_letter(bytes(1 << 20), n) for n in range(20)], lambda verdicts: calls.append(0) or Delivery())
    assert len(calls) == 3


def test_a_drive_ends_where_nothing_more_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what lies behind, nothing is counted."""
    monkeypatch.setattr(drives, "CHUNK_LETTERS", 2)
    driven = _drive(
        [_letter(GOOD, n) for n in range(8)],
        lambda verdicts: Delivery([Failure(verdicts[1].placed, "away")], "away"),
    )
    assert (driven.letters, driven.delivered, driven.failures, driven.stopped) == (2, 1, 1, "away")
