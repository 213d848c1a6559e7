"""Rows of files as records for an Intake: lines of JSON as they are, rows of tables as the JSON of a publisher."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from forebay.errors import EventError, ForebayError, UsageError
from forebay.events import MAX_RECORD_BYTES
from forebay.streams.imports.rawfile import RawFile
from forebay.streams.sources.mapping import Shape, looks_like_number

ROWS = 16_384  # of a chunk, at most
READ_BYTES = 4 << 20  # at a time; and a chunk of lines is no longer

Original: TypeAlias = bytes | dict[str, Any]
Fields: TypeAlias = Sequence[tuple[str, str]]
_object = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True)
class Refusal:
    """A row that is no event: its `place` in its file (1 is the first), why, and what stands there."""

    place: int
    error: EventError
    row: Original


@dataclass(frozen=True)
class Chunk:
    """Some rows of one file: `values` are records, `places` their places, `originals` what they are made of; `refused`
    became none. The file is read up to byte `done`."""

    values: Sequence[bytes]
    places: Sequence[int]
    originals: Sequence[Original]
    refused: Sequence[Refusal]
    done: int


Row: TypeAlias = tuple[int, dict[str, Any] | Refusal]


class Reader:
    """Reads files in one shape. What an attribute of a text table is, a number or a text, is decided by its first rows,
    for all files alike."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._is_number: dict[str, bool] = {}

    def chunks(self, file: RawFile) -> Iterator[Chunk]:
        """The rows of `file` in their order. Raises ForebayError where it cannot be read, UsageError where it lacks a
        column that the shape names."""
        kinds = {"json": self._lines, "csv": self._table, "parquet": self._parquet}
        try:
            yield from kinds[file.format](file)
        except (pa.ArrowException, OSError) as error:
            do = "Is it whole, and what its name says?"
            raise ForebayError(f"cannot be read: {error}", where=file.path, do=do) from None
        except UsageError as error:
            raise UsageError(error.what, where=error.where or file.path, do=error.do) from None

    def _lines(self, file: RawFile) -> Iterator[Chunk]:
        with file.opened() as (raw, data):
            for lines, places in _lines(data):
                if self._shape.is_plain:
                    yield Chunk(lines, places, lines, (), raw.tell())
                else:
                    yield self._events(_decoded(lines, places), raw.tell(), None)

    def _table(self, file: RawFile) -> Iterator[Chunk]:
        """Every value is a text, so that an id 007 stays one, and a row that does not fit is refused by itself."""
        with file.opened() as (raw, data):
            # What is no UTF-8 is refused with its row.
            text = io.TextIOWrapper(io.BufferedReader(data), "utf-8-sig", "surrogateescape", newline="")
            rows = csv.reader(text, delimiter=file.separator)
            header = next(rows, [])
            self._shape.check(header)
            fields = self._shape.fields(header)
            while batch := list(_some(rows, header)):
                self._decide(batch, fields)
                yield self._events(batch, raw.tell(), fields)

    def _parquet(self, file: RawFile) -> Iterator[Chunk]:
        with file.opened() as (raw, _), pq.ParquetFile(raw) as table:
            names = table.schema_arrow.names
            self._shape.check(names)
            fields = self._shape.fields(names)
            used = {column if column in names else column.partition(".")[0] for _, column in fields}
            place, total = 1, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(ROWS):
                rows = _in_ms(batch.select([name for name in names if name in used])).to_pylist()
                found = list(enumerate(rows, start=place))
                place += len(rows)
                yield self._events(found, file.size * (place - 1) // total, fields)

    def _decide(self, rows: Iterable[Row], fields: Fields) -> None:
        for field, column in fields:
            if "." in field and field not in self._is_number:
                seen = [row[column] for _, row in rows if isinstance(row, dict) and row.get(column)]
                if seen:
                    self._is_number[field] = all(map(looks_like_number, seen))

    def _events(self, rows: Iterable[Row], done: int, fields: Fields | None) -> Chunk:
        """Of rows that all have these `fields`; None: each has its own."""
        numbers = frozenset(field for field, known in self._is_number.items() if known)
        values, places, originals, refused = list[bytes](), list[int](), list[Original](), list[Refusal]()
        for place, row in rows:
            if isinstance(row, Refusal):
                refused.append(row)
                continue
            try:
                values.append(self._shape.event(row, fields or self._shape.fields(list(row)), numbers))
            except EventError as error:
                refused.append(Refusal(place, error, row))
                continue
            places.append(place)
            originals.append(row)
        return Chunk(values, places, originals, refused, done)


def _lines(data: Any) -> Iterator[tuple[list[bytes], list[int]]]:
    """The lines that are not blank, and their numbers, of so many bytes at a time. A line that is too long for any
    event is cut behind the bound at which it is refused."""
    rest, first, is_cut = b"", 1, False
    while True:
        read = data.read(READ_BYTES)
        if is_cut and read:
            end = read.find(b"\n")
            if end < 0:
                continue
            read, is_cut = read[end:], False
        lines = (rest + read).split(b"\n")
        rest = lines.pop() if read else b""
        if len(rest) > MAX_RECORD_BYTES:
            rest, is_cut = rest[: MAX_RECORD_BYTES + 1], True
        if first == 1 and lines:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        places = [n for n, line in enumerate(lines, start=first) if line.strip()]
        first += len(lines)
        if places:
            yield [line for line in lines if line.strip()], places
        if not read:
            return


def _decoded(lines: Sequence[bytes], places: Sequence[int]) -> Iterator[Row]:
    for place, line in zip(places, lines, strict=True):
        try:
            yield place, _object.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            yield place, Refusal(place, EventError("undecodable", str(error)), line)


def _some(rows: Any, header: Sequence[str]) -> Iterator[Row]:
    """So many of the rows of a table in text as a chunk takes; one that does not fit the header is refused."""
    size = count = 0
    while size < READ_BYTES and count < ROWS:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # a quote that is never closed
            yield rows.line_num, Refusal(rows.line_num, EventError("undecodable", str(error)), b"")
            continue
        size, count = size + sum(map(len, row)), count + 1
        if len(row) == len(header):
            yield rows.line_num, dict(zip(header, row, strict=True))
        elif row:
            odd = EventError("undecodable", f"a row of {len(row)} columns under a header of {len(header)}")
            yield rows.line_num, Refusal(rows.line_num, odd, ",".join(row).encode("utf-8", "replace"))


def _in_ms(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With moments in milliseconds: Python has none that are finer than microseconds."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            kind = pa.timestamp("ms", field.type.tz)
            batch = batch.set_column(place, pa.field(field.name, kind), batch.column(place).cast(kind, safe=False))
    return batch
