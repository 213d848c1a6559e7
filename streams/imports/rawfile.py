"""The files of a history: what is in a folder, by which name each is known, and in which form it is."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs
from xxhash import xxh3_64

from forebay.errors import UsageError
from forebay.segments.history.archive import Place

FORMATS = ("json", "csv", "parquet")
_BY_END = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
MAX_NAME = 200  # bytes: an id of 256 is made of it and a line's number


@dataclass(frozen=True)
class RawFile:
    """One file of `size` bytes. `name` is its path from what was named on, the same wherever that lies: events without
    an id are identified by it and their line."""

    files: fs.FileSystem
    path: str
    name: str
    size: int
    format: str

    @property
    def source(self) -> str:
        """As a Block has it: "name/0"."""
        return f"{self.name}/0"

    @property
    def separator(self) -> str:
        """Of a table in text."""
        return "\t" if ".tsv" in self.name else ","

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        """The bytes as they lie there, which tell how far they are read, and as they were before they were
        compressed."""
        with self.files.open_input_file(self.path) as raw:
            codec = _COMPRESSED.get(posixpath.splitext(self.path)[1])
            yield raw, pa.CompressedInputStream(raw, codec) if codec else raw


def found(urls: Sequence[str], form: str | None) -> list[RawFile]:
    """The files that `urls` name, folders with all that is in them, in order of their names. `form` is that of all of
    them; None: as their names end. Raises UsageError."""
    if form not in (None, *FORMATS):
        raise UsageError(f"{form!r} is no format", do=f"Use one of {', '.join(FORMATS)}")
    files = [file for url in urls for file in _found(url, form)]
    twice = {a.name for a in files if sum(a.name == b.name for b in files) > 1} if len(files) < 1000 else set()
    if len({file.name for file in files}) < len(files):
        raise UsageError(
            f"two files are called {min(twice, default='the same')}",
            do="Name the folder that holds both: events without an id are identified by the names of their files",
        )
    return files


def _found(url: str, form: str | None) -> Iterator[RawFile]:
    place = Place.of(url)
    info = place.files.get_file_info(place.path)
    base = posixpath.basename(place.path.rstrip("/"))
    if info.type == fs.FileType.NotFound:
        raise UsageError("there is no such file", where=url, do="Name a file or a folder, here or by its URL")
    if info.type == fs.FileType.File:
        ending = form or _format(base)
        if ending is None:
            raise UsageError("its name does not say what it is", where=url, do=f"Add --format {'|'.join(FORMATS)}")
        yield RawFile(place.files, place.path, _short(base), info.size, ending)
        return
    seen = 0
    for one in sorted(place.files.get_file_info(fs.FileSelector(place.path, recursive=True)), key=lambda i: i.path):
        inside = posixpath.relpath(one.path, place.path)
        hidden = any(part.startswith(("_", ".")) for part in inside.split("/"))
        ending = form or _format(inside)
        if one.type == fs.FileType.File and not hidden and ending is not None:
            seen += 1
            yield RawFile(place.files, one.path, _short(f"{base}/{inside}"), one.size, ending)
    if not seen:
        raise UsageError("no file of a history is in it", where=url, do=f"Add --format {'|'.join(FORMATS)}")


def _format(name: str) -> str | None:
    stem, end = posixpath.splitext(name)
    if end in _COMPRESSED:
        end = posixpath.splitext(stem)[1]
    return _BY_END.get(end)


def _short(name: str) -> str:
    data = name.encode("utf-8", "replace")
    return name if len(data) <= MAX_NAME else f"{xxh3_64(data).hexdigest()}-{posixpath.basename(name)[-40:]}"
