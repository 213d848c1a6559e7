"""What is asked of a registry, by whom, and what any server may answer: over real HTTP."""

from __future__ import annotations

import base64
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


@pytest.mark.parametrize(
    "answer", [(401, b"{}"), (500, b"{}"), (302, b""), (200, b"<html>"), (200, b"[1]"), (200, b" " * ((5 << 20) + 1))]
)
def test_any_other_answer_is_nobodys_fault(server: Server, answer: Answer) -> None:
    """A redirect is not followed: a password would go elsewhere."""
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
