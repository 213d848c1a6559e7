"""CloudEvents 1.0 over Kafka: attributes in headers (binary mode), or all of it in one JSON object (structured mode).

Which of the two a record is in is said by its header `content-type`, as the Kafka binding has it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from forebay.errors import EventError
from forebay.streams.sources.codecs import Json, as_object, fitting, present
from forebay.streams.sources.raw import Codec, Found, Raw

STRUCTURED, BATCHED = "application/cloudevents", "application/cloudevents-batch"
PREFIX = "ce_"
REQUIRED = ("id", "source", "specversion", "type")


class CloudEvents:
    """A row is the event's attributes by their names, and `data`, decoded where it is no JSON of structured mode."""

    def __init__(self, codec: Codec, *, needs_schemas: bool) -> None:
        """`codec` is of the data, and may have to wait for what decodes them where it `needs_schemas`."""
        self._codec, self._json, self._needs_schemas = codec, Json(), needs_schemas

    def waits(self, batches: Sequence[list[Raw]]) -> list[str]:
        """See Form."""
        if not self._needs_schemas:  # and nothing is decoded twice
            return [""] * len(batches)
        return self._codec.waits([fitting([self._data(record) for record in records]) for records in batches])

    def found(self, record: Raw) -> Found:
        """See Form. Raises EventError `bad_envelope` for what is no CloudEvent."""
        kind = _content_type(record)
        if kind.startswith(BATCHED):
            raise EventError("bad_envelope", "a batch of CloudEvents: the Kafka binding has one in each record")
        if kind.startswith(STRUCTURED):
            if kind not in (STRUCTURED, f"{STRUCTURED}+json"):
                raise EventError("bad_envelope", "a CloudEvent in structured mode that is not JSON")
            row = as_object(self._json.decode(present(record.value)), "the value")
            if "data_base64" in row:
                row["data"] = self._codec.decode(_unbased(row["data_base64"]))
        else:
            row = {
                name[len(PREFIX) :].lower(): (value or b"").decode("utf-8", "surrogateescape")
                for name, value in record.headers
                if name.lower().startswith(PREFIX)
            }
            if not row:
                raise EventError("bad_envelope", "no ce_ header, and no content-type of a CloudEvent")
            if record.value:  # an event may have no data
                row["data"] = self._codec.decode(present(record.value))
        for name in REQUIRED:
            if not isinstance(row.get(name), str) or not row[name]:
                raise EventError("bad_envelope", f"a CloudEvent without {name}")
        if not row["specversion"].startswith("1."):
            raise EventError("bad_envelope", f"a CloudEvent of version {row['specversion'][:9]!a}, not 1.x")
        return Found(row)

    def _data(self, record: Raw) -> bytes | None:
        """What the codec gets of a record; None for nothing."""
        if not _content_type(record).startswith(STRUCTURED):
            return record.value
        try:
            row = as_object(self._json.decode(present(record.value)), "the value")
            return _unbased(row["data_base64"]) if "data_base64" in row else None
        except Exception:  # noqa: BLE001 - `found` says what is wrong with it
            return None


def _content_type(record: Raw) -> str:
    """Without its parameters, in lower case; "" for none."""
    for name, value in record.headers:
        if name.lower() == "content-type":
            return (value or b"").decode("latin-1").partition(";")[0].strip().lower()
    return ""


def _unbased(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise EventError("bad_envelope", "data_base64 is no base64") from None
