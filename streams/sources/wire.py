"""The mark that serializers of a Schema Registry put before a value: a zero byte, and the schema's id in four bytes,
the highest first."""

from __future__ import annotations

from forebay.errors import EventError

HEADER_BYTES = 5


def framed(value: bytes) -> tuple[int, bytes]:
    """The schema's id, and what stands behind it. Raises EventError `no_registry_mark`."""
    if len(value) < HEADER_BYTES or value[0] != 0:
        began = value[:HEADER_BYTES].hex(" ") or "nothing"
        raise EventError(
            "no_registry_mark", f"it begins with {began}, where a registry's serializer writes 00 and an id"
        )
    return int.from_bytes(value[1:HEADER_BYTES]), value[HEADER_BYTES:]


def ids(values: list[bytes]) -> list[int]:
    """The schemas that `values` are of, each once and in their order; what has no mark has none."""
    marked = (v for v in values if len(v) >= HEADER_BYTES and v[0] == 0)
    return list(dict.fromkeys(int.from_bytes(v[1:HEADER_BYTES]) for v in marked))
