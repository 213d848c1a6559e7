"""Letters of topics that others fill: judged by their formats, and by the schemas of a registry."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import fastavro
import msgspec
import pytest

from forebay.clock import MINUTE_MS, now_ms
from forebay.config import SourceTable
from forebay.errors import EventError
from forebay.events import Behaviour, decode
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.accept import Rules
from forebay.streams.letterfilter import Placed
from forebay.streams.redrive import judge as judges
from forebay.streams.redrive.judge import Judge, Verdict
from forebay.streams.redrive.originals import Original
from forebay.streams.sources.codecs import MAX_FOREIGN_BYTES
from forebay.streams.sources.foreign import Foreign

from .sources.answering import Server

NOW = now_ms()
VIEW = {"type": "record", "name": "View", "fields": [{"name": "who", "type": "string"}, {"name": "at", "type": "long"}]}
TABLE: dict[str, Any] = {"map": {"user": "who", "time": "at"}, "set": {"item": "i", "action": "view"}}
ROW = {"who": "u1", "at": NOW - MINUTE_MS}


@pytest.fixture
def server() -> Iterator[Server]:
    """A registry that has VIEW as schema 7."""
    running = Server()
    running.schema("/schemas/ids/7", json.dumps(VIEW))
    yield running
    running.close()


def _foreign(topic: str, **values: Any) -> Foreign:
    return Foreign.of(SourceTable({"topic": topic} | TABLE | values, "forebay.toml"))


def _avro(number: int) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(VIEW), ROW)
    return b"\0" + number.to_bytes(4) + stream.getvalue()


def _letter(value: bytes, offset: int, topic: str = "views", partition: int = 0) -> Placed:
    letter = DeadLetter.of(
        EventError("no_field", "why"), key=None, value=value, topic=topic, partition=partition, offset=offset,
        append_time=NOW, processor="intake",
    )  # fmt: skip
    return Placed(letter, 0, offset, NOW)


def _judge(*foreign: Foreign) -> Judge:
    return Judge({"views": 2, "own": 1}, Rules(), foreign=foreign)


def test_letters_of_avro_are_judged_by_their_schemas(server: Server) -> None:
    """A good one goes back, and its event is known; one of a schema that the registry does not have is refused."""
    judge = _judge(_foreign("views", format="avro", registry=server.url))
    letters = [_letter(_avro(7), 1), _letter(_avro(8), 2), _letter(_avro(7), 3, partition=1), _letter(b"x", 4)]
    found = judge.judge(letters, lambda _: None, events=True)
    assert [v.reason for v in found] == ["", "no_schema", "", "no_registry_mark"]
    assert [v.placed.offset for v in found] == [1, 2, 3, 4]
    told = Behaviour("u1", "i", "view", 0.0, NOW - MINUTE_MS, "views-0-1")
    assert decode(found[0].event) == told
    assert found[2].event and not found[1].event


def test_letters_whose_registry_does_not_answer_are_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can say what they are; the others are judged, and those behind them are asked for without patience until
    it answers again."""
    monkeypatch.setattr(judges, "PATIENCE_S", 1.0)
    server.answers["/schemas/ids/9"] = 503, b""
    judge = _judge(_foreign("views", format="avro", registry=server.url))

    def judged(first: int) -> list[Verdict]:
        values = [(_avro(7), "views"), (_avro(9), "views"), (b"{", "own"), (_avro(7), "views")]
        return judge.judge(
            [_letter(value, first + n, topic) for n, (value, topic) in enumerate(values)], lambda _: None
        )

    for first in (0, 10):
        assert [v.reason for v in judged(first)] == ["", judges.WAITS, "undecodable", ""]
    server.schema("/schemas/ids/9", json.dumps(VIEW))
    assert [v.reason for v in judged(20)] == ["", "", "undecodable", ""]


def test_a_thousand_letters_of_strange_schemas_refuse_no_good_one(server: Server) -> None:
    """Letters are of all batches that ever were: the bound of one batch is none of theirs."""
    judge = _judge(_foreign("views", format="avro", registry=server.url))
    letters = [_letter(_avro(1000 + n), n) for n in range(300)] + [_letter(_avro(7), 300)]
    found = judge.judge(letters, lambda _: None)
    assert [v.reason for v in found] == ["no_schema"] * 300 + [""]


def test_a_foreign_record_may_be_larger_than_an_event() -> None:
    """A letter has its first 64 KiB, and the whole is in its topic: what becomes of it has the bound of an event."""
    large = msgspec.json.encode(ROW | {"rest": "x" * 200_000})
    too_large = msgspec.json.encode(ROW | {"rest": "x" * MAX_FOREIGN_BYTES})
    asked: list[int] = []

    def whole(letter: DeadLetter) -> Original | None:
        asked.append(letter.offset)
        return Original(None, large, [])

    letters = [_letter(large, 1), _letter(too_large, 2), _letter(large, 3, "own")]
    found = _judge(_foreign("views", format="json")).judge(letters, whole)
    assert [v.reason for v in found] == ["", "too_large", "too_large"] and asked == [1]
    assert found[0].value == large


def test_a_letter_whose_record_says_nothing_by_now_is_left() -> None:
    """As of a deleted row, since deletes are skipped: no line of a file is made of it, and nothing is sent."""
    gone = msgspec.json.encode({"op": "d", "before": {"sku": "s1"}, "source": {"ts_ms": NOW}})
    update = msgspec.json.encode({"op": "c", "after": {"sku": "s1"}, "source": {"ts_ms": NOW}})
    products = _foreign("views", format="debezium", map={"item": "sku"}, set={}, deletes="skip")
    for events in (True, False):
        found = _judge(products).judge([_letter(gone, 1), _letter(update, 2)], lambda _: None, events=events)
        assert [v.reason for v in found] == [judges.NOTHING, ""]
