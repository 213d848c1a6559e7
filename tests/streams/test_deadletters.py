"""Dead letters: the original bytes, the place and the reason come back as they were written, committed ones only."""

from __future__ import annotations

import hashlib

import confluent_kafka
import pytest

from forebay.errors import EventError, TopicMissing
from forebay.events import decode
from forebay.streams.deadletter import MAX_HEADER_BYTES, MAX_KEY_BYTES, MAX_MESSAGE, MAX_VALUE_BYTES, DeadLetter
from forebay.streams.deadletters import count, read
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.letterfilter import ALL, LetterFilter, Placed
from forebay.streams.origin import Origin
from forebay.streams.topics import Topics, ensure


def _letter(number: int = 0, reason: str = "late", value: bytes | None = b"\x00\xff not JSON") -> DeadLetter:
    return DeadLetter(b"u1", value, reason, f"number {number}", "behaviour", 3, number, 1_790_000_000_000, "user")


def test_a_letter_is_the_same_after_a_round_trip() -> None:
    """Bytes untouched, every field as it was; absent keys and values stay absent."""
    for letter in (_letter(), DeadLetter(None, None, "undecodable", "ü", "t", 0, 0, 0, "item")):
        assert DeadLetter.from_record(*letter.to_record()) == letter


def _refused(key: bytes | None, value: bytes | None) -> DeadLetter:
    return DeadLetter.of(
        EventError("too_large", "a record"),
        key=key, value=value, topic="behaviour", partition=3, offset=7, append_time=1, processor="user",
    )  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, MAX_VALUE_BYTES - 1, MAX_VALUE_BYTES, MAX_VALUE_BYTES + 1, 1_000_000])
def test_a_letter_carries_the_first_64_kib_and_says_how_long_the_whole_was(size: int) -> None:
    """The whole is still in the source topic: its place, its length and its hash say which bytes they were."""
    value = bytes(range(256)) * (size // 256 + 1)
    letter = _refused(b"u1", value[:size])
    assert letter.value == value[: min(size, 65_536)]
    assert (letter.length, letter.sha256) == (size, hashlib.sha256(value[:size]).hexdigest())
    assert (letter.topic, letter.partition, letter.offset) == ("behaviour", 3, 7)
    assert DeadLetter.from_record(*letter.to_record()) == letter


def test_a_key_that_is_no_id_is_cut_as_well() -> None:
    """Any id fits 256 bytes; a key is as large as its record may be, and must not keep the letter from being sent."""
    whole = bytes(900_000)
    letter = _refused(whole, b"{")
    assert letter.key == whole[:MAX_KEY_BYTES] and MAX_KEY_BYTES == 4096
    assert (letter.key_length, letter.key_sha256) == (900_000, hashlib.sha256(whole).hexdigest())
    assert (letter.value, letter.length) == (b"{", 1)
    assert DeadLetter.from_record(*letter.to_record()) == letter


def test_an_absent_value_is_told_from_an_empty_one() -> None:
    """A tombstone has no hash; no bytes have one."""
    assert (_refused(None, None).length, _refused(None, None).sha256, _refused(None, None).key_sha256) == (0, "", "")
    assert (_refused(b"", b"").length, _refused(b"", b"").sha256) == (0, hashlib.sha256(b"").hexdigest())


def test_a_letter_of_an_older_version_is_whole() -> None:
    """It has no header about its length: what it holds is all there was."""
    key, value, headers = _refused(b"u1", b"{").to_record()
    added = {"forebay.length", "forebay.sha256", "forebay.key_length", "forebay.key_sha256"}
    letter = DeadLetter.from_record(key, value, [(n, t) for n, t in headers if n not in added])
    assert (letter.length, letter.sha256) == (1, hashlib.sha256(b"{").hexdigest())
    assert (letter.key_length, letter.key_sha256) == (2, hashlib.sha256(b"u1").hexdigest())


def test_headers_are_the_documented_text() -> None:
    """The names and the form are what other tools read."""
    headers = dict(_letter(7).to_record()[2])
    assert headers.pop("forebay.version")
    assert headers == {
        "forebay.reason": b"late",
        "forebay.message": b"number 7",
        "forebay.topic": b"behaviour",
        "forebay.partition": b"3",
        "forebay.offset": b"7",
        "forebay.append_time": b"1790000000000",
        "forebay.processor": b"user",
        "forebay.length": b"11",
        "forebay.sha256": hashlib.sha256(b"\x00\xff not JSON").hexdigest().encode(),
        "forebay.key_length": b"2",
        "forebay.key_sha256": hashlib.sha256(b"u1").hexdigest().encode(),
        "forebay.headers_count": b"-1",
    }


def _with(headers: list[tuple[str, bytes | None]]) -> DeadLetter:
    error = EventError("undecodable", "a record")
    return DeadLetter.of(
        error, key=b"k", value=b"{", topic="behaviour", partition=3, offset=7, append_time=5, processor="intake",
        headers=headers,
    )  # fmt: skip


def test_the_records_own_headers_come_back_and_cannot_pass_for_the_letters() -> None:
    """A format may need them; and a producer may call one as a letter does."""
    letter = _with([("schema", b"7"), ("forebay.reason", b"late"), ("none", None), ("schema", b"8")])
    back = DeadLetter.from_record(*letter.to_record())
    assert back == letter and back.is_whole and back.reason == "undecodable"
    assert list(back.headers) == [("schema", b"7"), ("none", b""), ("schema", b"8")]


def test_headers_that_a_letter_has_no_room_for_are_counted() -> None:
    """It is no whole one then; where the record comes from is kept even so."""
    first = Origin("behaviour", 3, 2, 9)
    letter = _with([*first.to_headers(), ("large", bytes(MAX_HEADER_BYTES))])
    assert list(letter.headers) == first.to_headers() and not letter.is_whole
    assert letter.origin == first
    assert not _with([("large", bytes(MAX_HEADER_BYTES))]).is_whole
    assert _with([("l", bytes(MAX_HEADER_BYTES - 1))]).is_whole


def test_the_origin_of_a_letter_is_its_record_or_what_that_was_a_copy_of() -> None:
    """A copy is one only of the same source: another's offsets are of other records."""
    here, first = Origin("behaviour", 3, 7, 5), Origin("behaviour", 3, 2, 4)
    assert _with([]).origin == here
    assert _with([*first.to_headers()]).origin == first
    assert _with([*Origin("behaviour", 2, 2, 4).to_headers()]).origin == here
    assert DeadLetter.from_record(b"k", b"v", []).origin is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("offset", b"-1"), ("offset", b""), ("offset", b"1" * 19), ("append_time", b"0"), ("append_time", b"x"),
     ("append_time", str(1 << 53).encode()), ("topic", b""), ("topic", b"t" * 250), ("partition", b"\xff")],
)  # fmt: skip
def test_an_origin_that_cannot_be_is_none(name: str, value: bytes) -> None:
    """Anybody may write such headers."""
    headers = dict(Origin("t", 0, 1, 2).to_headers())
    assert Origin.of(headers.items()) == Origin("t", 0, 1, 2)
    assert Origin.of((headers | {f"forebay.origin.{name}": value}).items()) is None


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        (LetterFilter(), True),
        (LetterFilter(frozenset({"late", "future"})), True),
        (LetterFilter(frozenset({"future"})), False),
        (LetterFilter(sources=frozenset({("behaviour", ALL)})), True),
        (LetterFilter(sources=frozenset({("x", ALL), ("behaviour", 3)})), True),
        (LetterFilter(sources=frozenset({("behaviour", 2), ("x", 3)})), False),
        (LetterFilter(since_ms=100, until_ms=101), True),
        (LetterFilter(since_ms=101), False),
        (LetterFilter(until_ms=100), False),
        (LetterFilter(frozenset({"late"}), frozenset({("x", ALL)})), False),
        (LetterFilter(frozenset({"future"}), frozenset({("behaviour", ALL)}), 1), False),
    ],
)
def test_a_filter_holds_what_all_of_it_says(wanted: LetterFilter, held: bool) -> None:
    """Of several reasons or sources any one; of the time at which the letter was appended, its own first moment."""
    assert wanted.holds(Placed(_letter(), 0, 5, 100)) is held


def test_a_message_is_cut_and_quotes_nothing_of_the_record() -> None:
    """An error may quote what it refuses; its letter's headers do not."""
    with pytest.raises(EventError) as refused:
        decode(b'{"type": "secret-kind"}')
    assert "secret-kind" in refused.value.what
    letter = DeadLetter.of(
        refused.value, key=None, value=b"", topic="t", partition=0, offset=1, append_time=2, processor="user"
    )
    assert "secret" not in letter.message and letter.reason == "undecodable"
    long = EventError("bad_id", "x" * 1000)
    letter = DeadLetter.of(long, key=None, value=b"", topic="t", partition=0, offset=1, append_time=2, processor="user")
    assert len(letter.message) == MAX_MESSAGE


def test_a_foreign_record_reads_as_a_letter_without_a_reason() -> None:
    """Listing never fails on what someone else wrote."""
    letter = DeadLetter.from_record(b"k", b"v", [("forebay.offset", b"no number"), ("other", b"\xff")])
    assert (letter.key, letter.value, letter.reason, letter.offset, letter.partition) == (b"k", b"v", "", -1, -1)


@pytest.mark.broker
def test_only_committed_letters_are_listed_newest_last_and_counted_by_reason(kafka: DevKafka, topics: Topics) -> None:
    """Many small transactions, every third aborted: markers and aborted records are no letters."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=1)
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{topics.prefix}letters"}
    )
    producer.init_transactions(10)
    for number in range(60):
        producer.begin_transaction()
        key, value, headers = _letter(number, "late" if number % 2 else "future").to_record()
        producer.produce(topics.dead_letters, key=key, value=value, headers=headers)
        producer.flush()
        if number % 3 == 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    committed = [number for number in range(60) if number % 3 != 2]
    assert [letter.offset for letter in read(kafka.bootstrap, topics, 1000)] == committed
    assert [letter.offset for letter in read(kafka.bootstrap, topics, 10)] == committed[-10:]
    assert read(kafka.bootstrap, topics, 5)[-1] == _letter(58, "future")
    assert read(kafka.bootstrap, topics, 0) == []
    assert count(kafka.bootstrap, topics) == {"future": 20, "late": 20}


@pytest.mark.broker
def test_an_open_transaction_holds_nobody_up(kafka: DevKafka, topics: Topics) -> None:
    """Its letters are not listed, and listing does not wait for it."""
    ensure(kafka.bootstrap, topics, generation=None, partitions=1)
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{topics.prefix}open"}
    )
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topics.dead_letters, key=b"k", value=b"v")
    producer.flush()
    assert read(kafka.bootstrap, topics) == []
    assert count(kafka.bootstrap, topics) == {}
    producer.abort_transaction()


@pytest.mark.broker
def test_without_its_topic_the_remedy_is_named(kafka: DevKafka, topics: Topics) -> None:
    """Nothing is created by looking."""
    with pytest.raises(TopicMissing, match="Run: forebay topics create"):
        read(kafka.bootstrap, topics)
