"""Records of a foreign topic as the JSON that a publisher would have sent, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forebay.errors import EventError
from forebay.streams.sources.foreign import REQUIRED, Foreign
from forebay.streams.sources.forms import form_of
from forebay.streams.sources.mapping import encoded
from forebay.streams.sources.raw import Raw, Row
from forebay.streams.worker.batch import PartitionBatch


class Translator:
    """Of one foreign topic. One thread at a time."""

    def __init__(self, foreign: Foreign) -> None:
        """Raises MissingExtra where the format's libraries are not installed."""
        self.foreign, self._form, self._shape = foreign, form_of(foreign), foreign.shape
        self._fields = None if foreign.shape.own else foreign.shape.fields(())
        told = foreign.shape.columns.values()
        self._tells_key = any(column == "@key" for column in told)
        self._tells_headers = any(column.startswith("@headers.") for column in told)

    def waits(self, batches: Sequence[PartitionBatch]) -> list[str]:
        """For each of `batches` why its records cannot be translated now, though they may be later; "" where they can
        be, until the next call: what is to be translated together is asked for together. Comes back within a
        second."""
        return self._form.waits([_raws(batch) for batch in batches])

    def translated(self, batch: PartitionBatch) -> list[bytes | EventError | None]:
        """For each record of `batch` its event, why it is none, or None where it says nothing. Called for what `waits`
        has found nothing missing. Raises nothing, whatever the bytes are."""
        found: list[bytes | EventError | None] = []
        for raw in _raws(batch):
            try:
                found.append(self._event(raw))
            except EventError as error:
                found.append(error)
            except Exception as error:  # noqa: BLE001 - whatever a library says: no record ends the Intake
                found.append(EventError("undecodable", f"{type(error).__name__}: {error}"))
        return found

    def _event(self, raw: Raw) -> bytes | None:
        told = self._form.found(raw)
        if told is None:
            return None
        row, gone = told
        if gone and self.foreign.deletes == "skip":
            return None
        if gone and self.foreign.deletes == "refuse":
            raise EventError("deleted", "the row is gone, and deletes are refused here")
        if self._tells_key or self._tells_headers:
            row = {**row, **self._about(raw)}
        fields = self._fields
        if fields is None:
            for name in row:
                if not isinstance(name, str):  # as MessagePack may have it
                    raise EventError(
                        "undecodable", f"a field's name is {str(name)[:20]!a}, no text: map what is needed"
                    )
            fields = self._shape.fields(list(row))
        if gone:  # of which only its key is sure to be told
            fields = [(field, column) for field, column in fields if "attributes" not in field]
        found = self._shape.made_of(row, fields)
        if gone:
            found.pop("item_attributes", None)
            found["attributes"] = {}
        return self._whole(found)

    def _whole(self, found: dict[str, Any]) -> bytes:
        kind = found["type"]
        if kind not in REQUIRED:
            raise EventError("bad_type", f"type is {str(kind)[:40]!a}, none of {', '.join(REQUIRED)}")
        for field in REQUIRED[kind]:
            if field not in found:
                raise EventError("no_field", f"nothing at {self._shape.columns.get(field, field)} for {field}")
        if "time" not in found and self.foreign.no_time == "refuse":
            raise EventError("no_time", f"nothing at {self._shape.columns.get('time', 'time')} for time")
        if kind != "behaviour":
            found.setdefault("attributes", {})
        return encoded(found)

    def _about(self, raw: Raw) -> Row:
        key = None if raw.key is None else raw.key.decode("utf-8", "surrogateescape")
        return {"@key": key, "@headers": headers_of(raw)} if self._tells_headers else {"@key": key}


def headers_of(raw: Raw) -> dict[str, str]:
    """The headers of a record by their names, in lower case; of several of one name the last."""
    return {name.lower(): (value or b"").decode("utf-8", "surrogateescape") for name, value in raw.headers}


def _raws(batch: PartitionBatch) -> list[Raw]:
    headers = batch.headers or ((),) * len(batch.offsets)
    return [Raw(*parts) for parts in zip(batch.keys, batch.values, headers, strict=True)]
