"""Change events of Debezium: a row of somebody's table after it was created, read, updated or deleted."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from forebay.errors import EventError
from forebay.streams.sources.codecs import as_object, fitting, present
from forebay.streams.sources.raw import Codec, Found, Raw

_AFTER = ("c", "u", "r")  # created, updated, read by a snapshot
# What stands for a large column that an update does not touch, unless the connector has another setting: as a text, and
# as bytes, which are base64 in JSON.
UNAVAILABLE = "__debezium_unavailable_value"
_UNAVAILABLE = (UNAVAILABLE, UNAVAILABLE.encode(), base64.b64encode(UNAVAILABLE.encode()).decode())


class Debezium:
    """A row is the table's, after the change; of a deleted one what is known of it, its key at least. Beside its
    columns it has `@op`, `@source`, and `@time`: when the database made the change, else when the connector saw it."""

    def __init__(self, codec: Codec, paths: Collection[str] = ()) -> None:
        """`codec` is of values and keys; `paths` are what is taken of a row."""
        self._codec = codec
        parts = [path.split(".") for path in paths]
        self._taken = sorted({".".join(names[:end]) for names in parts for end in range(1, len(names) + 1)})

    def waits(self, batches: Sequence[list[Raw]]) -> list[str]:
        """See Form."""
        return self._codec.waits(
            [fitting([part for record in records for part in (record.value, record.key)]) for records in batches]
        )

    def found(self, record: Raw) -> Found | None:
        """See Form. The tombstone that follows a delete says nothing. Raises EventError `bad_envelope` for what is no
        change of a row."""
        if record.value is None:
            return None
        envelope = _payload(self._codec.decode(present(record.value)), "the value")
        op = envelope.get("op")
        about = {"@op": op, "@source": envelope.get("source"), "@time": _time(envelope)}
        if op in _AFTER:
            return Found(self._known(_row(envelope, "after"), envelope.get("before")) | about)
        if op != "d":
            raise EventError("bad_envelope", f"op is {str(op)[:20]!a}, none of c, u, r and d")
        row = dict(envelope["before"]) if isinstance(envelope.get("before"), dict) else {}
        if record.key is not None:  # without it a row that was replaced by nothing may be nameless
            key = _payload(self._codec.decode(present(record.key)), "the key")
            row = key | {name: value for name, value in row.items() if value is not None and not _is_unknown(value)}
        if not row:
            raise EventError("bad_envelope", "a deleted row with neither a key nor what was before")
        return Found(row | about, gone=True)

    def _known(self, row: dict[str, Any], before: Any) -> dict[str, Any]:
        """`row` with what is taken of it as it was before, where the change does not have it. Raises EventError where
        nobody knows that: it would be taken for changed."""
        unknown = [name for name in self._taken if name in row and _is_unknown(row[name])]
        if not unknown:
            return row
        old = before if isinstance(before, dict) else {}
        for name in unknown:  # a null before it is unknown, too: one is never too large to be told
            if old.get(name) is None or _is_unknown(old[name]):
                raise EventError(
                    "no_field",
                    f"{name} is unchanged, and the change does not have it: set REPLICA IDENTITY FULL on the table",
                )
        return row | {name: old[name] for name in unknown}


def _payload(value: Any, what: str) -> dict[str, Any]:
    """Without the schema that Kafka Connect's JSON may carry in each record."""
    found = as_object(value, what)
    if found.keys() == {"schema", "payload"}:
        found = as_object(found["payload"], f"the payload of {what}")
    return found


def _is_unknown(value: Any) -> bool:
    """Whether `value` is the marker, or a list or a map of nothing else."""
    if isinstance(value, list | dict) and len(value) == 1:
        value = next(iter(value))
    return isinstance(value, str | bytes) and value in _UNAVAILABLE


def _row(envelope: dict[str, Any], name: str) -> dict[str, Any]:
    row = envelope.get(name)
    if not isinstance(row, dict):
        raise EventError("bad_envelope", f"a change without {name}")
    return row


def _time(envelope: dict[str, Any]) -> datetime | None:
    """A moment, whatever the unit of the table's own times is. A snapshot of some connectors has 0 for the source's."""
    source = envelope.get("source")
    for place in (source if isinstance(source, dict) else {}, envelope):
        if isinstance(found := place.get("ts_ms"), int) and found > 0:
            try:
                return datetime.fromtimestamp(found / 1000, UTC)
            except (OverflowError, ValueError, OSError):  # past the year 9999
                raise EventError("bad_time", f"ts_ms is {found}") from None
    return None
