"""Avro that would take a process's time, memory or stack: what a stranger writes is refused before it is read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import fastavro
import pytest

from forebay.errors import EventError
from forebay.streams.sources.avro import MAX_DECIMAL_BYTES, Avro, compiled
from forebay.streams.sources.registry import Address, Registry, Schema

from .answering import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A registry that knows nothing yet."""
    running = Server()
    yield running
    running.close()


def _record(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields.items()]}


def _decoded(server: Server, schema: Any, data: bytes) -> Any:
    """What becomes of `data` behind the mark of schema 1."""
    server.schema("/schemas/ids/1", json.dumps(schema))
    codec, value = Avro(Registry(Address.of(server.url))), b"\0\0\0\0\1" + data
    while any(codec.waits([[value]])):
        pass
    return codec.decode(value)


def _written(schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 2500, "scale": 2}


def test_a_decimal_has_so_many_bytes(server: Server) -> None:
    """Its digits are made in quadratic time: those of a megabyte take minutes."""
    plain, schema = _record("R", d="bytes"), _record("R", d=["null", DECIMAL])
    assert _decoded(server, schema, _written(schema, {"d": Decimal("-12.50")})) == {"d": Decimal("-12.50")}
    longest = b"\2" + _written(plain, {"d": b"\x7f" * MAX_DECIMAL_BYTES})
    assert _decoded(server, schema, longest)["d"] > 10**2400
    with pytest.raises(EventError, match="a decimal of 1000000 bytes") as raised:
        _decoded(server, schema, b"\2" + _written(plain, {"d": b"\x7f" * 1_000_000}))
    assert raised.value.reason == "too_large"


def test_a_fixed_decimal_has_so_many_bytes(server: Server) -> None:
    """As its schema says, which somebody may write, too."""
    fixed = DECIMAL | {"type": "fixed", "name": "F", "size": 4, "precision": 9}
    schema = _record("R", a=fixed, b="F")
    assert _decoded(server, schema, bytes([0, 0, 4, 210] * 2)) == {"a": Decimal("12.34"), "b": Decimal("12.34")}
    with pytest.raises(EventError, match="a decimal of 900000 bytes"):
        _decoded(server, _record("R", a=fixed | {"size": 900_000}), bytes(900_000))


def test_a_decimal_that_is_none_is_no_schema() -> None:
    """As fastavro has it."""
    schema = _record("R", d={"type": "bytes", "logicalType": "decimal", "precision": -1})
    with pytest.raises(fastavro.schema.SchemaParseException, match="precision"):
        compiled(Schema("AVRO", json.dumps(schema), {}))


INNER = {"type": "record", "name": "B", "fields": [{"name": "u", "type": ["null", "A"]}, {"name": "a", "type": "A"}]}


@pytest.mark.parametrize(
    "schema",
    [
        _record("A", a="A"),
        _record("A", n="int", b=_record("B", n="int", c=_record("C", a="A"))),
        _record("A", u=["null", INNER], b="B"),  # its circle is met behind a union first
    ],
)
def test_a_record_that_always_has_itself_is_refused(schema: Any) -> None:
    """No bytes are a value of it, and fastavro would go down without reading one."""
    with pytest.raises(EventError, match="contains itself without an end") as raised:
        compiled(Schema("AVRO", json.dumps(schema), {}))
    assert raised.value.reason == "no_schema"


@pytest.mark.parametrize("kind", [["null", "A"], {"type": "array", "items": "A"}, {"type": "map", "values": "A"}])
def test_a_record_that_may_have_itself_is_read(kind: Any) -> None:
    """It has an end wherever nothing more is in it."""
    found = compiled(Schema("AVRO", json.dumps(_record("A", n="int", a=kind, b=_record("B", c=kind))), {}))
    assert found.shape.is_recursive


WIDE = _record("W", **{f"n{place}": "null" for place in range(100)}, b="boolean")


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (_record("R", a={"type": "array", "items": WIDE}), b"\xc0\x9a\x0c" + b"\1" * 100_000 + b"\0"),
        (_record("R", a={"type": "map", "values": WIDE}), b"\xc0\x9a\x0c" + b"\0\1" * 100_000 + b"\0"),
        (_record("R", a={"type": "array", "items": ["null", WIDE]}), b"\xc0\x9a\x0c" + b"\2\1" * 100_000 + b"\0"),
    ],
)
def test_few_bytes_do_not_become_much(server: Server, schema: Any, data: bytes) -> None:
    """A hundred thousand took 348 MB."""
    with pytest.raises(EventError, match="bytes may become") as raised:
        _decoded(server, schema, data)
    assert raised.value.reason == "too_large"


def test_no_bytes_do_not_become_much() -> None:
    """Records in records, twice in each: thirty of them are a billion."""
    schema: Any = _record("R0", n="null")
    for depth in range(1, 31):
        schema = _record(f"R{depth}", a=schema, b=f"R{depth - 1}")
    with pytest.raises(EventError, match="values in each record") as raised:
        compiled(Schema("AVRO", json.dumps(schema), {}))
    assert raised.value.reason == "no_schema"


def test_large_records_of_usual_schemas_are_read(server: Server) -> None:
    """A megabyte of text, beside what a shop writes of an order."""
    line = _record("Line", sku="string", count="int", price="double", note=["null", "string"])
    schema = _record("Order", body="string", lines={"type": "array", "items": line})
    lines = [{"sku": "s1", "count": 1, "price": 2.5, "note": None}] * 20_000
    order = {"body": "x" * 700_000, "lines": lines}
    data = _written(schema, order)
    assert len(data) > 900_000 and _decoded(server, schema, data) == order
