"""An archive: accepted events in Parquet files, as the clean log has them, with their places in it.

    <archive>/user/00002-00000000000000000000-00000000000000004096.parquet   clean log of users: partition 2, offsets
    <archive>/item/…                                                         clean log of items
    <archive>/imported/<name>.parquet                                        events that never were in a log

Columns are those of a Block (schema.py), attribute columns behind them (`item.genres:texts`), and `source` is its name.
What a file is stands in its metadata, under `forebay`; its name says the same to people and sorts it. A file appears
whole, under its last name, so that a crash leaves what it had before and perhaps a `.part` that nobody reads.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from forebay.errors import ArchiveError
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import FIXED, ITEM_UPDATE, Attribute, attribute_named, schema_of
from forebay.segments.spec import SIDES, Side

VERSION = 1
ROWS = 65_536  # read at a time, and of one row group: 10 MB of columns
ROWS_PER_FILE = 1 << 20  # written at a time: 100 MB in memory, a tenth of that on disk
IMPORTED = "imported"
_METADATA = b"forebay"


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


@dataclass(frozen=True)
class Place:
    """An archive's folder: any that pyarrow or fsspec knows by its URL, or a path."""

    files: fs.FileSystem
    path: str
    url: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises ArchiveError for a URL that nobody here knows."""
        if "://" not in url:
            return cls(fs.LocalFileSystem(), posixpath.abspath(url), url)
        import fsspec  # only for what is not a path

        try:
            found, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArchiveError(
                f"cannot be reached: {error}", where=url, do="Install what it names, or mend the URL"
            ) from None
        return cls(fs.PyFileSystem(fs.FSSpecHandler(found)), path, url)

    def join(self, name: str) -> str:
        """The path of a file in it."""
        return posixpath.join(self.path, name)

    def listed(self, folder: str) -> list[str]:
        """The Parquet files of one of its folders, by name; none where there is no folder."""
        selector = fs.FileSelector(self.join(folder), allow_not_found=True)
        names = (found.base_name for found in self.files.get_file_info(selector) if found.type == fs.FileType.File)
        return sorted(f"{folder}/{name}" for name in names if name.endswith(".parquet"))


class Archive:
    """What an archive holds now: its files are listed once, and read when they are asked for."""

    def __init__(self, place: Place, logs: Mapping[Side, Sequence[Part]], imported: Sequence[str]) -> None:
        self.place, self._logs, self.imported = place, logs, tuple(imported)

    @classmethod
    def open(cls, url: str) -> Archive:
        """Raises ArchiveError where there is none, or where records are missing between two files of a partition."""
        place = Place.of(url)
        logs: dict[Side, list[Part]] = {}
        for side in SIDES:
            logs[side] = [_part_of(place, name) for name in place.listed(side)]
            _whole(logs[side], place)
        imported = place.listed(IMPORTED)
        if not imported and not any(logs.values()):
            raise ArchiveError("holds no events", where=url, do="Write one: forebay import, or forebay archive")
        return cls(place, logs, imported)

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

    def brought(self) -> Iterator[Block]:
        """The Blocks of what was imported: of all kinds, behaviours once."""
        for name in self.imported:
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
            with pq.ParquetFile(path, filesystem=self.place.files) as file:
                for batch in file.iter_batches(ROWS):
                    yield _block(batch)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise ArchiveError(
                f"cannot be read: {error}", where=f"{self.place.url}/{name}", do="Write it anew"
            ) from None


class Writer:
    """Writes one file. Blocks are gathered and written as a whole: their attributes together are its columns."""

    def __init__(self, place: Place) -> None:
        self._place, self._blocks, self.rows = place, list[Block](), 0

    def add(self, block: Block) -> None:
        """Behind what was added before."""
        self._blocks.append(block)
        self.rows += len(block)

    def write(self, part: Part, name: str | None = None) -> str:
        """Write what was added as `part`, under `name` or its own, and forget it. Returns its path in the archive."""
        found, blocks = name or part.name, self._blocks
        attributes = tuple(sorted({a for block in blocks for a in block.attributes}))
        schema = _schema(attributes)
        table = pa.Table.from_batches([_batch(block, attributes, schema) for block in blocks], schema)
        table = table.replace_schema_metadata({_METADATA: msgspec.json.encode(part)})
        path, files = self._place.join(found), self._place.files
        files.create_dir(posixpath.dirname(path), recursive=True)
        with files.open_output_stream(f"{path}.part") as out:
            pq.write_table(table, out, compression="zstd", row_group_size=ROWS)
        files.move(f"{path}.part", path)
        self._blocks, self.rows = [], 0
        return found


def write_imported(place: Place, name: str, blocks: Iterable[Block]) -> int:
    """Write `blocks` as files `<name>-0.parquet` and so on; returns the number of events."""
    writer, total, number = Writer(place), 0, 0
    for block in blocks:
        writer.add(block)
        total += len(block)
        if writer.rows >= ROWS_PER_FILE:
            writer.write(Part(), f"{IMPORTED}/{name}-{number:05}.parquet")
            number += 1
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
    if found.name != name:
        raise ArchiveError(f"was written as {found.name}", where=where, do="Give it back its name")
    return found


def _whole(parts: Sequence[Part], place: Place) -> None:
    for before, after in pairwise(parts):
        if before.partition != after.partition:
            continue
        if before.topic_id != after.topic_id or before.next != after.first:
            what = f"{after.name} does not go on where {before.name} ends"
            raise ArchiveError(what, where=place.url, do="Find the file that is missing, or begin another archive")


def _schema(attributes: tuple[Attribute, ...]) -> pa.Schema:
    schema = schema_of(attributes)
    names = pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False)
    return schema.set(schema.get_field_index("source"), names)


def _batch(block: Block, attributes: tuple[Attribute, ...], schema: pa.Schema) -> pa.RecordBatch:
    columns = [block.batch.column(name) for name, _ in FIXED]
    place = [name for name, _ in FIXED].index("source")
    columns[place] = pa.DictionaryArray.from_arrays(
        columns[place].cast(pa.int32()), pa.array(block.sources, pa.string())
    )
    for attribute in attributes:
        found = block.column(attribute)
        columns.append(pa.nulls(len(block), schema.field(attribute.column).type) if found is None else found)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _block(batch: pa.RecordBatch) -> Block:
    attributes = tuple(attribute_named(name) for name in batch.schema.names[len(FIXED) :])
    columns = {name: batch.column(name) for name in batch.schema.names}
    names: tuple[str, ...] = tuple(columns["source"].dictionary.to_pylist())
    columns["source"] = columns["source"].indices.cast(pa.uint16())
    schema = schema_of(attributes)
    return Block(pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema), names, attributes)
