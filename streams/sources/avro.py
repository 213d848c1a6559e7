"""Avro behind the mark of a Schema Registry."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from forebay.errors import EventError, MissingExtra
from forebay.streams.sources.avroshape import AvroShape, shape_of
from forebay.streams.sources.registry import Registry, Schema
from forebay.streams.sources.schemas import Schemas
from forebay.streams.sources.wire import framed, ids

# fastavro reads a schema that refers to itself by calling itself: 30,000 times takes the process down.
MAX_RECURSIVE_BYTES = 1000
MAX_VALUES = 4_000_000  # of one record, 160 MB at worst: few schemas make four values of a byte, and a record has 2^20
MAX_DECIMAL_BYTES = 1024  # 2,466 digits: making them takes quadratic time, .3 ms for these
_DECIMAL = "forebay-decimal"  # fastavro's readers of logical types are everybody's in this process: ours has its name


@dataclass(frozen=True)
class Compiled:
    """A schema as fastavro reads by it, and its shape."""

    schema: Any
    shape: AvroShape


class Avro:
    """One record, by the schema that wrote it; its logical types are moments, decimals and the like."""

    def __init__(self, registry: Registry) -> None:
        """Raises MissingExtra."""
        try:
            from fastavro import schemaless_reader
            from fastavro.read import LOGICAL_READERS
        except ImportError:
            raise MissingExtra("fastavro", "formats") from None
        for kind in ("bytes", "fixed"):
            LOGICAL_READERS[f"{kind}-{_DECIMAL}"] = partial(_decimal, LOGICAL_READERS[f"{kind}-decimal"])
        self._schemas, self._read = Schemas(registry, compiled), schemaless_reader

    def waits(self, batches: Sequence[list[bytes]]) -> list[str]:
        """See Codec."""
        return self._schemas.waits([ids(values) for values in batches])

    def decode(self, value: bytes) -> Any:
        """See Codec."""
        number, data = framed(value)
        schema = self._schemas.of(number)
        shape = schema.shape
        if shape.is_recursive and len(data) > MAX_RECURSIVE_BYTES:
            raise EventError(
                "too_large", f"{len(data)} bytes of a schema that refers to itself, past {MAX_RECURSIVE_BYTES}"
            )
        if (most := shape.values + int(len(data) * shape.values_per_byte)) > MAX_VALUES:
            raise EventError("too_large", f"{len(data)} bytes may become {most} values, past {MAX_VALUES}")
        stream = io.BytesIO(data)
        found = self._read(stream, schema.schema, None)
        if left := len(data) - stream.tell():
            raise EventError("undecodable", f"{left} bytes are left behind a record of schema {number}")
        return found


def compiled(schema: Schema) -> Compiled:
    """Raises EventError `no_schema`, and what fastavro raises for a schema that is none."""
    if schema.kind != "AVRO":
        raise EventError("no_schema", f"the registry's schema is {schema.kind[:20]}, not AVRO")
    texts = (*schema.references.values(), schema.text)
    parsed, named = _parsed([json.loads(text) for text in texts])
    shape = shape_of(parsed, named)
    if shape.is_endless:
        raise EventError("no_schema", "a record that contains itself without an end")
    if shape.has_empty_items:
        # A few bytes would say that there are 2**60 of them, and each would be made.
        raise EventError("no_schema", "an array whose items take no bytes")
    if shape.values > MAX_VALUES:
        raise EventError("no_schema", f"{shape.values} values in each record, past {MAX_VALUES}")
    # Only now: as a decimal it was checked.
    parsed, _ = _parsed([json.loads(text, object_hook=_with_our_decimal) for text in texts])
    return Compiled(parsed, shape)


def _parsed(schemas: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """The last of `schemas`, and by their names what it and those before it have."""
    from fastavro import parse_schema

    named: dict[str, Any] = {}
    return [parse_schema(schema, named_schemas=named) for schema in schemas][-1], named


def _with_our_decimal(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"logicalType": _DECIMAL} if found.get("logicalType") == "decimal" else found


def _decimal(read: Callable[..., Any], data: bytes, *schemas: Any) -> Any:
    if len(data) > MAX_DECIMAL_BYTES:
        raise EventError("too_large", f"a decimal of {len(data)} bytes, past {MAX_DECIMAL_BYTES}")
    return read(data, *schemas)
