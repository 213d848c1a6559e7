"""Avro behind the mark of a Schema Registry."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forebay.errors import EventError, MissingExtra
from forebay.streams.sources.registry import Registry, Schema
from forebay.streams.sources.schemas import Schemas
from forebay.streams.sources.wire import framed, ids

# fastavro reads a schema that refers to itself by calling itself: 30,000 times takes the process down.
MAX_RECURSIVE_BYTES = 1000


@dataclass(frozen=True)
class _Compiled:
    schema: Any
    is_recursive: bool


class Avro:
    """One record, by the schema that wrote it; its logical types are moments, decimals and the like."""

    def __init__(self, registry: Registry) -> None:
        """Raises MissingExtra."""
        try:
            from fastavro import schemaless_reader
        except ImportError:
            raise MissingExtra("fastavro", "formats") from None
        self._schemas, self._read = Schemas(registry, compiled), schemaless_reader

    def waits(self, batches: Sequence[list[bytes]]) -> list[str]:
        """See Codec."""
        return self._schemas.waits([ids(values) for values in batches])

    def decode(self, value: bytes) -> Any:
        """See Codec."""
        number, data = framed(value)
        schema = self._schemas.of(number)
        if schema.is_recursive and len(data) > MAX_RECURSIVE_BYTES:
            raise EventError(
                "too_large", f"{len(data)} bytes of a schema that refers to itself, past {MAX_RECURSIVE_BYTES}"
            )
        stream = io.BytesIO(data)
        found = self._read(stream, schema.schema, None)
        if left := len(data) - stream.tell():
            raise EventError("undecodable", f"{left} bytes are left behind a record of schema {number}")
        return found


def compiled(schema: Schema) -> _Compiled:
    """Raises EventError `no_schema`, and what fastavro raises for a schema that is none."""
    from fastavro import parse_schema

    if schema.kind != "AVRO":
        raise EventError("no_schema", f"the registry's schema is {schema.kind[:20]}, not AVRO")
    named: dict[str, Any] = {}
    for text in schema.references.values():
        parse_schema(json.loads(text), named_schemas=named)
    parsed = parse_schema(json.loads(schema.text), named_schemas=named)
    shape = _Shape(named)
    shape.look(parsed)
    if shape.has_empty_items:
        # A few bytes would say that there are 2**60 of them, and each would be made.
        raise EventError("no_schema", "an array whose items take no bytes")
    return _Compiled(parsed, shape.is_recursive)


class _Shape:
    """What is to be known of a schema before it meets a stranger's bytes."""

    def __init__(self, named: dict[str, Any]) -> None:
        self._named, self._inside, self._done = named, list[str](), dict[str, bool]()
        self.is_recursive = self.has_empty_items = False

    def look(self, schema: Any) -> bool:
        """Whether a value of it may take no bytes at all."""
        if isinstance(schema, list):  # a union: its branch is a byte
            for branch in schema:
                self.look(branch)
            return False
        if isinstance(schema, str):
            return self._of_name(schema)
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._of_name(schema["name"], schema)
        if kind == "array":
            self.has_empty_items |= self.look(schema["items"])
            return False
        if kind == "map":
            self.look(schema["values"])
            return False
        if kind == "fixed":
            return not schema["size"]
        return self.look(kind) if kind != "enum" else False

    def _of_name(self, name: str, schema: Any = None) -> bool:
        if schema is None and name not in self._named:
            return name == "null"
        if name in self._inside:
            self.is_recursive = True
            return False
        if name not in self._done:
            found = schema if schema is not None else self._named[name]
            if found["type"] not in ("record", "error"):
                return self.look(found)
            self._inside.append(name)
            empty = [self.look(field["type"]) for field in found["fields"]]  # each is looked at
            self._done[name] = all(empty)
            self._inside.pop()
        return self._done[name]
