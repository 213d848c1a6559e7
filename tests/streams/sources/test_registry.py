"""What is asked of a registry, by whom, and what any server may answer: over real HTTP."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from forebay.errors import EventError
from forebay.secret import Secret
from forebay.streams.sources import registry as module
from forebay.streams.sources import schemas as schemas_module
from forebay.streams.sources.registry import Address, Registry, RegistryAway, Schema
from forebay.streams.sources.schemas import Schemas

from .answering import Answer, Server


@pytest.fixture
def server() -> Iterator[Server]:
    """One that knows nothing."""
    running = Server()
    yield running
    running.close()


def test_who_asks_is_told_with_each_question(server: Server) -> None:
    """By user and password, which nothing shows; without a user nothing is told."""
    server.schema("/schemas/ids/1", '"string"')
    address = Address.of(server.url, user="me", password=Secret("hush"))
    assert Registry(address).schema(1) == Schema("AVRO", '"string"', {})
    Registry(Address.of(f"{server.url}/")).schema(1)
    told = f"Basic {base64.b64encode(b'me:hush').decode()}"
    assert server.asked == [("/schemas/ids/1", told), ("/schemas/ids/1", None)]
    assert "hush" not in repr(address)


def test_references_come_behind_what_they_need(server: Server) -> None:
    """Each once, also where two schemas need it, and where they go round in a circle."""

    def refers(*names: str) -> list[dict[str, Any]]:
        return [{"name": name, "subject": f"{name}/s", "version": 2} for name in names]

    server.schema("/schemas/ids/1", "main", schemaType="PROTOBUF", references=refers("b", "a"))
    server.schema("/subjects/b%2Fs/versions/2", "B", references=refers("a"))
    server.schema("/subjects/a%2Fs/versions/2", "A", references=refers("b"))
    found = Registry(Address.of(server.url)).schema(1)
    assert (found.kind, found.text, list(found.references.items())) == ("PROTOBUF", "main", [("a", "A"), ("b", "B")])
    assert len(server.asked) == 3


def test_a_schema_that_is_not_there_is_the_records_fault(server: Server) -> None:
    """Itself, one that it refers to, and more of them than anybody has."""
    ask = Registry(Address.of(server.url)).schema
    server.schema("/schemas/ids/2", "x", references=[{"name": "a", "subject": "s", "version": 1}])
    server.answers["/schemas/ids/3"] = 200, b"{}"
    many = [{"name": str(n), "subject": "many", "version": 1} for n in range(module.MAX_REFERENCES + 1)]
    server.schema("/schemas/ids/4", "x", references=many)
    server.schema("/subjects/many/versions/1", "y")
    for number, says in ((1, "no schema 1"), (2, "no version 1 of 's'"), (3, "without a schema"), (4, "more than 200")):
        with pytest.raises(EventError, match=says) as raised:
            ask(number)
        assert raised.value.reason == "no_schema"


class _Endless:
    """A server that never comes to the end of its answer."""

    def __init__(self, head: bytes, part: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer, args=(head, part))
        self._thread.start()

    def _answer(self, head: bytes, part: bytes) -> None:
        connection, _ = self._socket.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(head)
            while not self._ended.wait(0.02):
                connection.sendall(part)

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        self._socket.close()


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    ],
)
def test_an_answer_that_does_not_end_is_given_up(head: bytes, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small its parts are."""
    monkeypatch.setattr(module, "WHOLE_S", 0.5)
    server, found = _Endless(head, part), list[str]()
    try:
        asks = threading.Thread(target=lambda: found.append(_said(server.url)), daemon=True)
        asks.start()
        asks.join(20)
        assert len(found) == 1 and "for more than" in found[0]
    finally:
        server.close()


def _said(url: str) -> str:
    with pytest.raises(RegistryAway) as raised:
        Registry(Address.of(url)).schema(1)
    return raised.value.what


def test_a_schema_and_its_references_have_one_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred slow answers are not waited for, one after the other."""
    monkeypatch.setattr(module, "SCHEMA_S", 0.5)
    server.takes_s = 0.3
    refers = [{"name": str(n), "subject": str(n), "version": 1} for n in range(9)]
    server.schema("/schemas/ids/1", "x", references=refers)
    for n in range(9):
        server.schema(f"/subjects/{n}/versions/1", "y")
    assert "longer than" in _said(server.url)
    assert 1 <= len(server.asked) <= 2


@pytest.mark.parametrize(
    "answer",
    [(401, b"{}"), (500, b"{}"), (302, b""), (307, b""), (200, b"<html>"), (200, b"[1]"), (200, b" " * ((5 << 20) + 1)),
     (404, b"404 page not found\n"), (404, b""), (404, b"{}"), (404, b'{"error_code":"x"}'), (404, b"[40403]"),
     (404, b'{"error_code":404,"message":"HTTP 404 Not Found"}'), (500, b'{"error_code":40403}')],
)  # fmt: skip
def test_any_other_answer_is_nobodys_fault(server: Server, answer: Answer) -> None:
    """A redirect is not followed: a password would go elsewhere. A 404 is a proxy's, or that of a wrong path, unless
    the registry says which of its things is not there."""
    server.answers["/schemas/ids/1"] = answer
    with pytest.raises(RegistryAway) as raised:
        Registry(Address.of(server.url, user="u", password=Secret("hush"))).schema(1)
    assert "hush" not in str(raised.value) and raised.value.where == server.url
    assert [path for path, _ in server.asked] == ["/schemas/ids/1"]


def _ready(schemas: Schemas[Any], *groups: Sequence[int]) -> None:
    while any(schemas.waits(groups)):
        pass


def test_schemas_are_asked_for_once_and_kept_to_a_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are none for a while only; what one batch needs is there whatever the bound is."""
    monkeypatch.setattr(schemas_module, "KEPT", 3)
    for number in range(1, 9):
        server.schema(f"/schemas/ids/{number}", f"s{number}")
    found = Schemas(Registry(Address.of(server.url)), lambda schema: schema.text)
    for wanted in ((1, 2), (1,), (2, 1)):
        _ready(found, wanted)
    assert sorted(path for path, _ in server.asked) == ["/schemas/ids/1", "/schemas/ids/2"]
    _ready(found, range(3, 9))
    assert [found.of(number) for number in range(3, 9)] == [f"s{number}" for number in range(3, 9)]
    _ready(found, [8])
    with pytest.raises(EventError, match="was not asked for"):
        found.of(1)

    _ready(found, [99])
    before = len(server.asked)
    _ready(found, [99])
    with pytest.raises(EventError, match="no schema 99"):
        found.of(99)
    assert len(server.asked) == before
    server.schema("/schemas/ids/99", "late")
    monkeypatch.setattr(schemas_module.time, "monotonic", lambda: 1e12)
    _ready(found, [99])
    assert found.of(99) == "late"


def test_a_schema_that_nothing_can_be_made_of_is_none(server: Server) -> None:
    """Whatever a library says of it."""
    server.schema("/schemas/ids/1", "x")
    found = Schemas(Registry(Address.of(server.url)), lambda schema: 1 // 0)
    _ready(found, [1])
    with pytest.raises(EventError, match="cannot be used: ZeroDivisionError") as raised:
        found.of(1)
    assert raised.value.reason == "no_schema"
