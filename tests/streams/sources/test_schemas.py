"""Schemas for several batches at once, within bounds, and for a process that may end at any time."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from forebay.config import SourceTable
from forebay.errors import EventError
from forebay.events import Behaviour, decode
from forebay.streams.sources import schemas as module
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.registry import Address, Registry
from forebay.streams.sources.schemas import MOST_ASKED, Schemas
from forebay.streams.sources.translator import Translator
from forebay.streams.worker.batch import PartitionBatch

from .answering import Server

ENDS = """
import sys
from forebay.streams.sources.foreign import Foreign
from forebay.streams.sources.registry import Address, Registry
from forebay.streams.sources.schemas import Schemas
schemas = Schemas(Registry(Address.of(sys.argv[1])), lambda schema: schema.text)
print(sum(map(bool, schemas.waits([range(100 * n, 100 * n + 100) for n in range(9)]))))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    """One that knows the schemas 1 to 20."""
    running = Server()
    for number in range(1, 21):
        running.schema(f"/schemas/ids/{number}", f"s{number}")
    yield running
    running.close()


def _schemas(server: Server) -> Schemas[str]:
    return Schemas(Registry(Address.of(server.url)), lambda schema: schema.text)


def _ready(schemas: Schemas[str], groups: Sequence[Sequence[int]]) -> None:
    while any(schemas.waits(groups)):
        pass


def test_what_batches_are_asked_for_together_is_there_for_all_of_them(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few are kept: what one needs is not dropped for another one."""
    monkeypatch.setattr(module, "KEPT", 3)
    found = _schemas(server)
    groups = [range(1, 8), range(7, 14), [20]]
    _ready(found, groups)
    assert [found.of(n) for group in groups for n in group] == [f"s{n}" for group in groups for n in group]
    _ready(found, [[20]])
    with pytest.raises(EventError, match="was not asked for"):
        found.of(1)


def test_a_batch_waits_alone(server: Server) -> None:
    """What the others need is there, and what waits is not asked for anew."""
    server.answers["/schemas/ids/9"] = 500, b"{}"
    found = _schemas(server)
    _ready(found, [[1], [2]])
    reasons = found.waits([[1], [9], [2]])
    while "being fetched" in reasons[1]:
        reasons = found.waits([[1], [9], [2]])
    assert reasons[0] == reasons[2] == "" and "answers 500" in reasons[1]
    assert [found.of(1), found.of(2)] == ["s1", "s2"]


def test_of_one_batch_so_many_are_asked_for(server: Server) -> None:
    """Bytes that are no schema's id may name a thousand: those behind the first hundred make dead letters, and the
    batch gets ready."""
    found = _schemas(server)
    _ready(found, [[7, *range(1000, 1500)], [8]])
    assert len(server.asked) == MOST_ASKED + 1 and (found.of(7), found.of(8)) == ("s7", "s8")
    for number, says in ((1050, "no schema 1050"), (1450, "was not asked for")):
        with pytest.raises(EventError, match=says) as raised:
            found.of(number)
        assert raised.value.reason == "no_schema"


def test_what_waits_keeps_what_it_has_to_a_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that never comes keeps the others from being dropped, and not for ever."""
    monkeypatch.setattr(module, "KEPT", 2)
    monkeypatch.setattr(module, "KEPT_WAITING", 5)
    monkeypatch.setattr(module, "PATIENCE_S", 5.0)
    server.answers["/schemas/ids/9"] = 500, b"{}"
    found = _schemas(server)
    for number in range(10, 21):
        assert found.waits([[9], [number]])[1] == ""
    assert [found.of(number) for number in range(16, 21)] == [f"s{number}" for number in range(16, 21)]
    with pytest.raises(EventError, match="was not asked for"):
        found.of(15)


@pytest.mark.parametrize("is_structured", [True, False])
def test_a_cloud_events_data_are_asked_for_in_either_mode(server: Server, is_structured: bool) -> None:
    """Of a structured one the bytes in its base64."""
    fields = [{"name": "who", "type": "string"}]
    server.schema("/schemas/ids/1", json.dumps({"type": "record", "name": "D", "fields": fields}))
    table = {"format": "cloudevents", "encoding": "avro", "registry": server.url}
    source = SourceTable({"topic": "t", "map": {"user": "data.who", "item": "subject"}} | table, "forebay.toml")
    translator = Translator(Foreign.of(source))
    event = {"specversion": "1.0", "id": "e", "source": "/", "type": "view", "subject": "i", "time": "2023-11-14"}
    data = b"\0\0\0\0\1\x04u1"
    headers = [(f"ce_{name}", text.encode()) for name, text in event.items()]
    value = data
    if is_structured:
        headers = [("content-type", b"application/cloudevents+json")]
        value = json.dumps(event | {"data_base64": base64.b64encode(data).decode()}).encode()
    odd = [b"{", b"[1]", b'{"data_base64":"?"}', b'{"data_base64":7}', None]
    batch = PartitionBatch(0, [None] * 6, [value, *odd], list(range(6)), [9] * 6, [headers] * 6)
    while any(translator.waits([batch])):
        pass
    found, *rest = translator.translated(batch)
    assert isinstance(found, bytes) and decode(found) == Behaviour("u1", "i", "view", 0.0, 1699920000000, "e")
    assert all(isinstance(each, EventError) for each in rest)


def test_a_process_ends_whatever_it_has_asked_for() -> None:
    """Nine hundred schemas of a server that takes connections and says nothing: one by one they take 20 minutes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        words = [sys.executable, "-c", ENDS, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "9"
