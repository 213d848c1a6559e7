"""An archive: accepted events in Parquet files, as the clean log has them, with their places in it.

    <archive>/user/00002-00000000000000000000-00000000000000004096.parquet   clean log of users: partition 2, offsets
    <archive>/item/…                                                         clean log of items
    <archive>/imported/<name>.parquet                                        events that never were in a log

Columns are those of a Block (schema.py), attribute columns behind them (`item.genres:texts`), and `source` is its name.
What a file is stands in its metadata, under `forebay`; its name says the same to people and sorts it. A file appears
whole, under its last name, so that a crash leaves what it had before and perhaps a `.part` that nobody reads.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forebay.errors import ArchiveError
from forebay.files import sync_folder
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import FIXED, ITEM_UPDATE, MAX_ATTRIBUTES, Attribute, attribute_named, schema_of
from forebay.segments.history.place import Place
from forebay.segments.spec import SIDES, Side

__all__ = ["Archive", "Part", "Place", "Writer", "write_imported"]
VERSION = 1
ROWS = 65_536  # read at a time, and of one row group: 10 MB of columns
ROWS_PER_FILE = 1 << 20  # at most: 100 MB in memory, a tenth of that on disk
BYTES_PER_FILE = 256 << 20  # of columns in memory, at most: a file of long texts ends earlier
CELLS_PER_FILE = 1 << 26  # at most: each event has a place, null or not, in every attribute's column
IMPORTED = "imported"
_TOGETHER = 256  # Blocks that become one table: a quiet log has an event or two in each, and 2 kB around them
_METADATA = b"forebay"
_NAMES = [name for name, _ in FIXED]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one file holds: the records `first` to before `next` of a `partition` of a `side`'s clean log, the topic
    known by `topic_id`, of `count` partitions. An imported file is of no side and has none of them."""

    version: int = VERSION
    side: Side | None = None
    partition: int = 0
    count: int = 0
    topic_id: str = ""
    first: int = 0
    next: int = 0

    @property
    def name(self) -> str:
        """Its path in the archive, of a part of a log."""
        return f"{self.side}/{self.partition:05}-{self.first:020}-{self.next:020}.parquet"


class Archive:
    """What an archive holds now: its files are listed once, and read when they are asked for."""

    def __init__(self, place: Place, logs: Mapping[Side, Sequence[Part]], imported: Sequence[str]) -> None:
        self.place, self._logs, self.imported = place, logs, tuple(imported)

    @classmethod
    def open(cls, url: str) -> Archive:
        """Raises ArchiveError where there is none, or where records are missing between two files of a partition."""
        found = cls.at(Place.of(url))
        if found.is_empty:
            raise ArchiveError("holds no events", where=url, do="Write one: forebay import, or forebay archive")
        return found

    @classmethod
    def at(cls, place: Place) -> Archive:
        """As `open`, and an empty one where there is none yet: for who writes to it."""
        logs: dict[Side, list[Part]] = {}
        for side in SIDES:
            logs[side] = [_part_of_log(place, name) for name in place.listed(side)]
            _whole(logs[side], place)
        return cls(place, logs, place.listed(IMPORTED))

    @property
    def is_empty(self) -> bool:
        """Whether it has no file at all."""
        return not self.imported and not any(self._logs.values())

    def parts(self, side: Side) -> Sequence[Part]:
        """Those of a side's clean log, by partition and offset."""
        return self._logs[side]

    def next(self, side: Side) -> dict[int, int]:
        """Partition -> the offset behind what is archived of it."""
        return {part.partition: part.next for part in self._logs[side]}

    def of_topic(self, side: Side, topic_id: str) -> bool:
        """Whether its files of a side are of the log that the topic of this id is; not where it has none."""
        return any(part.topic_id == topic_id for part in self._logs[side])

    def log(self, side: Side, partition: int | None = None) -> Iterator[Block]:
        """The Blocks of a side's clean log, in its order in each partition; of all of them, or of one `partition`."""
        for part in self._logs[side]:
            if partition in (None, part.partition):
                yield from self._read(part.name)

    def part(self, part: Part) -> Iterator[Block]:
        """The Blocks of one of its files of a log."""
        yield from self._read(part.name)

    def brought(self) -> Iterator[Block]:
        """The Blocks of what was imported: of all kinds, behaviours once."""
        for name in self.imported:
            _part_of(self.place, name)
            yield from self._read(name)

    def __iter__(self) -> Iterator[Block]:
        """Every event of it once, as often as it is asked for: behaviours and profiles as the users' log has them,
        updates as the items' has them."""
        yield from self.brought()
        yield from self.log("user")
        for block in self.log("item"):
            at = np.flatnonzero(block.numbers("kind") == ITEM_UPDATE)
            if len(at):
                yield block.take(at)

    def _read(self, name: str) -> Iterator[Block]:
        path = self.place.join(name)
        try:
            with pq.ParquetFile(path, filesystem=self.place.files, page_checksum_verification=True) as file:
                for batch in file.iter_batches(ROWS):
                    yield from _blocks(batch)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise ArchiveError(
                f"cannot be read: {error}", where=f"{self.place.url}/{name}", do="Bring it from a copy"
            ) from None


class Writer:
    """Gathers Blocks and writes them as one file: their attributes together are its columns."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._clear()

    def _clear(self) -> None:
        self._tables, self._loose = list[pa.Table](), list[pa.Table]()
        self._attributes, self._bytes, self.rows = set[Attribute](), 0, 0

    def takes(self, block: Block) -> bool:
        """Whether a file with `block` in it is within the three bounds. An empty one takes any."""
        rows = self.rows + len(block)
        columns = len(FIXED) + len(self._attributes.union(block.attributes))
        fits = rows <= ROWS_PER_FILE and self._bytes + block.batch.nbytes <= BYTES_PER_FILE
        return self.rows == 0 or (fits and rows * columns <= CELLS_PER_FILE)

    def add(self, block: Block) -> None:
        """Behind what was added before."""
        self._loose.append(_table(block))
        self._attributes.update(block.attributes)
        self._bytes += block.batch.nbytes
        self.rows += len(block)
        if len(self._loose) == _TOGETHER:
            self._tables.append(_joined(self._loose).combine_chunks())
            self._loose = []

    def write(self, part: Part, name: str | None = None) -> str:
        """Write what was added as `part`, under `name` or its own, and forget it. Returns its path in the archive. A
        file of that name is replaced."""
        found, schema = name or part.name, _schema(tuple(sorted(self._attributes)))
        tables = [*self._tables, *self._loose]
        table = _joined(tables).select(schema.names) if tables else schema.empty_table()
        table = table.replace_schema_metadata({_METADATA: msgspec.json.encode(part)})
        path, files = self._place.join(found), self._place.files
        files.create_dir(posixpath.dirname(path), recursive=True)
        with files.open_output_stream(f"{path}.part") as out:
            pq.write_table(table, out, compression="zstd", row_group_size=ROWS, write_page_checksum=True)
        if self._place.is_local:
            _synced(f"{path}.part")
        files.move(f"{path}.part", path)
        if self._place.is_local:
            sync_folder(Path(path).parent)
        self._clear()
        return found


def write_imported(place: Place, name: str, blocks: Iterable[Block]) -> int:
    """Write `blocks` as files `<name>-00000.parquet` and so on; returns the number of events."""
    writer, total, number = Writer(place), 0, 0
    for block in blocks:
        if not writer.takes(block):
            writer.write(Part(), f"{IMPORTED}/{name}-{number:05}.parquet")
            number += 1
        writer.add(block)
        total += len(block)
    if writer.rows:
        writer.write(Part(), f"{IMPORTED}/{name}-{number:05}.parquet")
    return total


def _part_of(place: Place, name: str) -> Part:
    where = f"{place.url}/{name}"
    try:
        metadata = pq.read_metadata(place.join(name), filesystem=place.files).metadata or {}
        found = msgspec.json.decode(metadata.get(_METADATA, b""), type=Part)
    except (pa.ArrowException, OSError, msgspec.MsgspecError) as error:
        raise ArchiveError(f"is no file of an archive: {error}", where=where, do="Remove it from the folder") from None
    if found.version > VERSION:
        raise ArchiveError(f"is of version {found.version}, and {VERSION} is known here", where=where, do="Upgrade")
    return found


def _part_of_log(place: Place, name: str) -> Part:
    found = _part_of(place, name)
    if found.name != name:
        raise ArchiveError(f"was written as {found.name}", where=f"{place.url}/{name}", do="Give it back its name")
    return found


def _whole(parts: Sequence[Part], place: Place) -> None:
    do = "Find the file that is missing, or begin another archive"
    for before, after in pairwise(parts):
        if (before.topic_id, before.count) != (after.topic_id, after.count):
            raise ArchiveError(f"{after.name} is of another log than {before.name}", where=place.url, do=do)
        if before.partition == after.partition and before.next != after.first:
            raise ArchiveError(f"{after.name} does not go on where {before.name} ends", where=place.url, do=do)


def _synced(path: str) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _schema(attributes: tuple[Attribute, ...]) -> pa.Schema:
    schema = schema_of(attributes)
    names = pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False)
    return schema.set(schema.get_field_index("source"), names)


def _table(block: Block) -> pa.Table:
    columns = block.batch.columns
    place = _NAMES.index("source")
    columns[place] = pa.DictionaryArray.from_arrays(
        columns[place].cast(pa.int32()), pa.array(block.sources, pa.string())
    )
    return pa.Table.from_arrays(columns, schema=_schema(block.attributes))


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One behind the other; an attribute that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries()


def _blocks(batch: pa.RecordBatch) -> Iterator[Block]:
    """The events of a batch with the attributes that they have, as a clean log has them: a Block's number of them is
    bounded, and a file's columns are those of a million events."""
    if batch.schema.names[: len(FIXED)] != _NAMES:
        raise ValueError("its columns are not those of events")
    names = [n for n in batch.schema.names[len(FIXED) :] if batch.column(n).null_count < len(batch)]
    if len(names) > MAX_ATTRIBUTES and len(batch) > 1:
        middle = len(batch) // 2
        yield from _blocks(batch.slice(0, middle))
        yield from _blocks(batch.slice(middle))
        return
    schema = schema_of(tuple(attribute_named(name) for name in names))
    columns = {name: batch.column(name) for name in schema.names}
    sources: tuple[str, ...] = tuple(columns["source"].dictionary.to_pylist())
    columns["source"] = columns["source"].indices.cast(pa.uint16())
    found = [columns[field.name].cast(field.type) for field in schema]
    yield Block(
        pa.RecordBatch.from_arrays(found, schema=schema), sources, tuple(attribute_named(name) for name in names)
    )
