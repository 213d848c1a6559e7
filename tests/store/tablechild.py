"""Writers of a shared table in processes of their own, and rows from which a reader can tell what it has got.

    python tablechild.py churn|grow|fill|unallocated|busy FOLDER

Of an entity number k in version v all codes are one byte, all of its half is one number, and so on: half of one version
and half of another is seen, and so is the row of another entity. Each child says "ready" when it begins.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Floats, Ints
from forebay.errors import TableFull
from forebay.store import rowwriting
from forebay.store.codec import HELD, RowCodec, Rows, SlotSpec
from forebay.store.reserved import Reserved
from forebay.store.rowlayout import RowLayout
from forebay.store.sharedtable import SharedTable
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import Identity

CODEC = RowCodec("item", (SlotSpec("a", 300, 1), SlotSpec("b", 84, 2)))
IDENTITY = Identity("g1", "b" * 64, RowLayout(CODEC, 128), partitions=2)
SMALL = TableLimits(reserve_rows=1 << 20, reserve_name_bytes=1 << 26, least_extent_bytes=1 << 16)
ENTITIES, LIVE = 800, 400
BATCH = 100
MIB = 1 << 20


def ids_of(numbers: Ints) -> list[str]:
    return [f"entity-{k}-{'x' * (k % 40)}" for k in numbers.tolist()]


def content(numbers: Ints, versions: Ints, flags: int = HELD) -> tuple[Rows, Floats]:
    """Rows and halves of entities in versions, int64 [n] each."""
    rows = CODEC.empty(len(numbers))
    for segment in CODEC.segments:
        part = rows["segments"][segment.name]
        part["vector"] = (versions * 7 + numbers)[:, None] % 127
        part["scale"], part["as_of"], part["last_event"], part["flags"] = numbers, versions, numbers, flags
    return rows, np.repeat((versions % 1000).astype(np.float32)[:, None], 128, axis=1)


def torn(images: npt.NDArray[np.void]) -> Bools:
    """bool [n]: parts of two versions, or of two entities, in one row."""
    numbers, versions = images["last_event"][:, 0], images["as_of"][:, 0]
    odd = (images["codes"] != ((versions * 7 + numbers)[:, None] % 127)).any(axis=1)
    odd |= (images["half"] != (versions % 1000)[:, None]).any(axis=1)
    odd |= (images["scale"] != numbers[:, None]).any(axis=1) | (images["as_of"] != versions[:, None]).any(axis=1)
    return odd | (images["last_event"] != numbers[:, None]).any(axis=1)


def churn(folder: Path) -> None:
    """Updates, deletes, and inserts into rows that were just freed, as fast as it goes; versions count up."""
    table = SharedTable(folder, IDENTITY, SMALL)
    random, version = np.random.default_rng(1), 1
    live = np.zeros(ENTITIES, np.bool_)
    live[:LIVE] = True
    table.upsert(ids_of(np.arange(LIVE)), *_put(np.arange(LIVE), version))
    print("ready", flush=True)
    while True:
        version += 1
        out = random.permutation(np.flatnonzero(live))[:BATCH]
        into = random.permutation(np.flatnonzero(~live))[:BATCH]
        table.delete(ids_of(out))
        table.upsert(ids_of(into), *_put(into, version))
        live[out], live[into] = False, True
        for _ in range(4):
            version += 1
            again = random.permutation(np.flatnonzero(live))[:BATCH]
            table.upsert(ids_of(again), *_put(again, version))


def carry(folder: Path) -> None:
    """All rows in a version, and then the watermark of that version, again and again: no row is HELD."""
    table = SharedTable(folder, IDENTITY, SMALL)
    numbers, version = np.arange(LIVE), 0
    ids = ids_of(numbers)
    while True:
        version += 10
        rows, halves = content(numbers, np.full(LIVE, version), flags=0)
        table.upsert(ids, rows, np.zeros(LIVE, np.int64), halves)
        table.advance(0, version + 9)
        if version == 10:
            print("ready", flush=True)


def grow(folder: Path) -> None:
    """New entities without end; the watermark of partition 0 says how many there are by now."""
    table = SharedTable(folder, IDENTITY, SMALL)
    for start in range(0, 1 << 19, BATCH):
        numbers = np.arange(start, start + BATCH)
        table.upsert(ids_of(numbers), *_put(numbers, 1))
        table.advance(0, start + BATCH)
        if start == 0:
            print("ready", flush=True)


def fill(folder: Path, most_bytes: int = 2 * MIB) -> None:
    """New entities until the device is full; then every row in version 2, and a word for what came of it."""
    # On a device with room, files of this process may not be longer than this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    table, count = SharedTable(folder, IDENTITY, SMALL), 0
    print("ready", flush=True)
    try:
        while count < 1 << 16:
            numbers = np.arange(count, count + BATCH)
            table.upsert(ids_of(numbers), *_put(numbers, 1))
            count += BATCH
    except TableFull as error:
        print("full", count, len(table), str(error), flush=True)
    numbers = np.arange(len(table))
    table.upsert(ids_of(numbers), *_put(numbers, 2))
    table.advance(0, len(table))
    print("updated", flush=True)
    sys.stdin.readline()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    numbers = np.arange(len(table), len(table) + 2000)
    table.upsert(ids_of(numbers), *_put(numbers, 3))
    print("more", len(table), flush=True)


def unallocated(folder: Path) -> None:
    """As `fill` on a full device, with files that are made long and not allocated: what a writer must not do."""

    def longer(self: Reserved, size_bytes: int) -> None:
        os.truncate(self.path, max(size_bytes, self.size_bytes))

    Reserved.grow = longer  # type: ignore[method-assign]
    fill(folder, 1 << 30)


def busy(folder: Path) -> None:
    """Almost all of the time in the middle of some row."""
    table = SharedTable(folder, IDENTITY, SMALL)
    numbers = np.arange(LIVE)
    rows, halves = content(numbers, np.ones(LIVE, np.int64))
    places = table.upsert(ids_of(numbers), rows, np.zeros(LIVE, np.int64), halves)
    images = table._files.images(LIVE)[places].copy()
    again = np.tile(np.arange(LIVE), 500)
    many, rows_of = images[again].view(np.uint64).reshape(len(again), -1), places[again]
    arguments: Any = (table._words, table._layout, table._cells, many, rows_of, np.zeros(len(again), np.bool_))
    rowwriting.write_rows(*arguments)
    print("ready", flush=True)
    while True:
        rowwriting.write_rows(*arguments)


def _put(numbers: Ints, version: int) -> tuple[Rows, Ints, Floats]:
    rows, halves = content(numbers, np.full(len(numbers), version))
    return rows, np.zeros(len(numbers), np.int64), halves


if __name__ == "__main__":
    {"churn": churn, "carry": carry, "grow": grow, "fill": fill, "unallocated": unallocated, "busy": busy}[sys.argv[1]](
        Path(sys.argv[2])
    )
