"""Rows that an import refuses, in a file for people: what each is, where, and why."""

from __future__ import annotations

import posixpath
from collections import Counter
from types import TracebackType
from typing import Any, Self

import msgspec

from forebay.segments.history.archive import Place
from forebay.streams.imports.rows import Original

MAX_ROW = 64 * 1024  # bytes of it that are kept


class Refusals:
    """One JSON object a line: `place` (file:line), `reason`, `what`, `row`. The file is made with the first one, over
    what an earlier import left there."""

    def __init__(self, url: str) -> None:
        folder, name = posixpath.split(url)
        place = Place.of(folder or ".")
        self.url, self.reasons = url, Counter[str]()
        self._files, self._folder, self._path = place.files, place.path, place.join(name)
        self._file: Any = None

    def add(self, place: str, reason: str, what: str, row: Original | None) -> None:
        """Write one."""
        if self._file is None:
            self._files.create_dir(self._folder, recursive=True)
            self._file = self._files.open_output_stream(self._path)
        self.reasons[reason] += 1
        line = {"place": place, "reason": reason, "what": what, "row": _shown(row)}
        self._file.write(msgspec.json.encode(line) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _shown(row: Original | None) -> Any:
    if isinstance(row, dict):
        try:
            text = msgspec.json.encode(row)
            return msgspec.Raw(text) if len(text) <= MAX_ROW else text[:MAX_ROW].decode("utf-8", "replace")
        except (TypeError, UnicodeEncodeError, msgspec.MsgspecError):
            row = str(row).encode("utf-8", "replace")
    return (row or b"")[:MAX_ROW].decode("utf-8", "replace")
