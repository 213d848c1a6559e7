"""The frozen part of the item index: the codes of all rows at one moment, list by list. Nothing of it ever changes.

A file has a header of one page and then, each from a multiple of 64 bytes on:

    f4 centroids [lists, dim] | i8 starts [lists + 1] | i4 rows [n] | f4 scales [n, segments] | i1 codes [n, dim]

It is called `ivf.<hash>`, by the 128-bit XXH3 of all that stands behind the header. Codes and scales are those of the
stored rows, so that a score is the row's own score, and a row takes a quarter of what float32 would.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xxhash import xxh3_128

from forebay.arrays import Bytes, Floats, Int8s, Ints
from forebay.errors import IndexDamaged, TableFull
from forebay.store.indexkernels import Rows32

MAGIC, VERSION = b"FBIVF001", 1
_HEADER, _LINE = 4096, 64
_PREFIX = "ivf."


@dataclass(frozen=True)
class Ivf:
    """`centroids` float32 [lists, dim]; entries `starts[l]` to before `starts[l + 1]` are list `l`'s: their `rows`
    int32 [n], `scales` float32 [n, segments] and `codes` int8 [n, dim]."""

    centroids: Floats
    starts: Ints
    rows: Rows32
    scales: Floats
    codes: Int8s

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lists(self) -> int:
        """How many there are."""
        return len(self.centroids)

    @classmethod
    def empty(cls, lists: int, dim: int, segments: int, entries: int) -> tuple[Ivf, Bytes]:
        """Of zeros, to be filled by who makes it, and the bytes that all of it lies in."""
        data = np.zeros(_places(lists, dim, segments, entries)[-1], np.uint8)
        return cls.over(data, lists, dim, segments, entries), data

    @classmethod
    def over(cls, data: Bytes, lists: int, dim: int, segments: int, entries: int) -> Ivf:
        """Where it lies in what follows a header."""
        at = _places(lists, dim, segments, entries)
        ends = [lists * dim * 4, (lists + 1) * 8, entries * 4, entries * segments * 4, entries * dim]
        parts = [data[start : start + size] for start, size in zip(at, ends, strict=False)]
        return cls(
            parts[0].view(np.float32).reshape(lists, dim),
            parts[1].view(np.int64),
            parts[2].view(np.int32),
            parts[3].view(np.float32).reshape(entries, segments),
            parts[4].view(np.int8).reshape(entries, dim),
        )

    def entry_of(self, capacity: int) -> Rows32:
        """int32 [capacity]: the entry of each row, -1 where it has none."""
        entries = np.full(capacity, -1, np.int32)
        entries[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return entries

    def list_of(self) -> Rows32:
        """int32 [n]: the list of each entry."""
        return np.repeat(np.arange(self.lists, dtype=np.int32), np.diff(self.starts))


def path_of(folder: Path, digest: str) -> Path:
    """Where the lists of that hash are."""
    return folder / f"{_PREFIX}{digest}"


def write(folder: Path, ivf: Ivf, data: Bytes) -> str:
    """Keep `data`, the bytes of `ivf`, in `folder`; returns the hash, by which it is read. The name is given when the
    file is whole: a crash leaves a `*.new` behind. Raises TableFull."""
    digest = xxh3_128(data.data).hexdigest()  # in memory: a full device shortens a file without an error
    path = path_of(folder, digest)
    header = np.zeros(_HEADER, np.uint8)
    header[:8] = np.frombuffer(MAGIC, np.uint8)
    dim, segments = ivf.codes.shape[1], ivf.scales.shape[1]
    header[8:48].view(np.int64)[:] = (VERSION, ivf.lists, dim, segments, len(ivf))
    beside = path.with_suffix(path.suffix + ".new")
    try:
        with beside.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _HEADER + len(data))
            file.write(header.data)
            file.write(data.data)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise TableFull(
            f"no room for an index of {len(data):,} bytes: {error.strerror}",
            where=str(folder),
            do="Make room on that device; until then all items are scanned",
        ) from None
    return digest


def read(folder: Path, digest: str, dim: int, segments: int) -> Ivf:
    """Map the lists of that hash, read-only. Every byte is looked at: raises IndexDamaged where the file is not what
    was written, and FileNotFoundError where it is not there."""
    path = path_of(folder, digest)
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)

    def refuse(what: str) -> IndexDamaged:
        return IndexDamaged(what, where=str(path), do="The replica of this node makes another one by itself")

    if len(data) < _HEADER or bytes(data[:8]) != MAGIC:
        raise refuse("no index, or the beginning of one")
    found = data[8:48].view(np.int64).tolist()
    lists, entries = found[1], found[4]
    if found[0] != VERSION or found[2:4] != [dim, segments] or min(lists, entries) < 0:
        raise refuse(f"an index of version {found[0]} with {found[2]} dimensions in {found[3]} segments")
    if _HEADER + _places(lists, dim, segments, entries)[-1] != len(data):
        raise refuse(f"{len(data):,} bytes do not hold {entries:,} entries in {lists:,} lists")
    body = data[_HEADER:]
    if xxh3_128(body.data).hexdigest() != digest:
        raise refuse("its bytes are not those that were written")
    return Ivf.over(np.asarray(body), lists, dim, segments, entries)


def _places(lists: int, dim: int, segments: int, entries: int) -> list[int]:
    """Where each part begins, and the end."""
    at, places = 0, []
    for size in (lists * dim * 4, (lists + 1) * 8, entries * 4, entries * segments * 4, entries * dim):
        places.append(at)
        at += -(-size // _LINE) * _LINE
    return [*places, at]
