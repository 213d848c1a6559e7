"""Formats that need no schema: JSON, MessagePack, and JSON behind the mark of a Schema Registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from forebay.errors import EventError
from forebay.streams.sources.raw import Codec as CodecProtocol
from forebay.streams.sources.raw import Found, Raw
from forebay.streams.sources.wire import framed

MAX_FOREIGN_BYTES = 1 << 20  # a broker's own bound is about the same; what becomes of it has the bound of an event


class Json:
    """One JSON value. Behind the mark of a registry, the schema only says what it may be: it is not asked for."""

    def __init__(self, *, is_framed: bool = False) -> None:
        self._is_framed, self._decoder = is_framed, msgspec.json.Decoder()

    def waits(self, batches: Sequence[list[bytes]]) -> list[str]:
        """See Codec."""
        return [""] * len(batches)

    def decode(self, value: bytes) -> Any:
        """See Codec."""
        return self._decoder.decode(framed(value)[1] if self._is_framed else value)


class MessagePack:
    """One MessagePack value; its timestamps are moments."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder()

    def waits(self, batches: Sequence[list[bytes]]) -> list[str]:
        """See Codec."""
        return [""] * len(batches)

    def decode(self, value: bytes) -> Any:
        """See Codec."""
        return self._decoder.decode(value)


class Plain:
    """Records whose value is an object."""

    def __init__(self, codec: CodecProtocol) -> None:
        self._codec = codec

    def waits(self, batches: Sequence[list[Raw]]) -> list[str]:
        """See Form."""
        return self._codec.waits([fitting([record.value for record in records]) for records in batches])

    def found(self, record: Raw) -> Found:
        """See Form."""
        return Found(as_object(self._codec.decode(present(record.value)), "the value"))


def present(value: bytes | None) -> bytes:
    """A value that is there and not too large. Raises EventError."""
    if value is None:
        raise EventError("empty", "a record without a value")
    if len(value) > MAX_FOREIGN_BYTES:
        raise EventError("too_large", f"a record of {len(value)} bytes, past {MAX_FOREIGN_BYTES}")
    return value


def fitting(values: list[bytes | None]) -> list[bytes]:
    """Those that `present` takes."""
    return [value for value in values if value is not None and len(value) <= MAX_FOREIGN_BYTES]


def as_object(value: Any, what: str) -> dict[str, Any]:
    """`value`, which must be an object. Raises EventError."""
    if not isinstance(value, dict):
        raise EventError("undecodable", f"{what} is {_KINDS.get(type(value), 'a ' + type(value).__name__)}, no object")
    return value


_KINDS = {list: "a list", str: "a text", bytes: "bytes", int: "a number", float: "a number", type(None): "null"}
