"""A Block: accepted events as an Arrow record batch, and as one record of the clean log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64

from forebay.arrays import Bytes, Ints
from forebay.errors import BlockError
from forebay.segments.blocks.schema import STRANGER, Attribute, pack_header, unpack_header

MAX_BYTES = 700_000  # of one record: a broker takes 1,048,588 with its framing
DIGEST_BYTES = 8  # xxh3 of header and batch, behind the batch


@dataclass(frozen=True)
class Block:
    """n events in columns (schema.py), in order of the log. `sources` are "topic/partition", by the numbers of the
    column `source`; `attributes` are the columns behind the fixed ones."""

    batch: pa.RecordBatch
    sources: tuple[str, ...]
    attributes: tuple[Attribute, ...]

    def __len__(self) -> int:
        return self.batch.num_rows

    @classmethod
    def decode(cls, header: bytes, value: bytes) -> Block:
        """From a record. Raises BlockError for what is none.

        The digest tells header and value of two records apart: Arrow takes a batch for any schema that has as many
        buffers. And every buffer is looked through, since what reads columns later trusts their offsets.
        """
        found, schema = unpack_header(header)
        batch_bytes, digest = memoryview(value)[:-DIGEST_BYTES], value[-DIGEST_BYTES:]
        if _digest(header, batch_bytes) != digest:
            raise BlockError("its bytes are not what was written", do=STRANGER)
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(batch_bytes), schema)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, EOFError, ValueError) as error:
            raise BlockError(f"it cannot be read: {error}", do=STRANGER) from None
        sources = batch.column("source").to_numpy()
        if len(sources) and sources.max() >= len(found.sources):
            raise BlockError("an event names a source that the header does not have", do=STRANGER)
        return cls(batch, found.sources, found.attributes)

    @classmethod
    def joined(cls, blocks: Sequence[Block]) -> Iterator[Block]:
        """The same events in as few blocks: neighbours with the same attributes become one. What names of sources they
        have together is not kept: the places of `source` are each block's own."""
        start = 0
        for place in range(1, len(blocks) + 1):
            if place < len(blocks) and blocks[place].attributes == blocks[start].attributes:
                continue
            if place - start == 1:
                yield blocks[start]
            else:
                whole = pa.Table.from_batches([block.batch for block in blocks[start:place]]).combine_chunks()
                yield cls(whole.to_batches()[0], (), blocks[start].attributes)
            start = place

    def encode(self) -> Iterator[tuple[bytes, bytes]]:
        """Header and value of each record, 700 kB at most apiece: halves, where the whole is larger."""
        header, value = pack_header(self.sources, self.attributes), self.batch.serialize().to_pybytes()
        if len(value) <= MAX_BYTES or len(self) < 2:
            yield header, value + _digest(header, value)
            return
        middle = len(self) // 2
        yield from self.slice(0, middle).encode()
        yield from self.slice(middle, len(self)).encode()

    def slice(self, start: int, end: int) -> Block:
        """The events from place `start` to before `end`, without a copy."""
        return Block(self.batch.slice(start, end - start), self.sources, self.attributes)

    def numbers(self, name: str) -> Ints:
        """int64 [n]: a fixed column of numbers."""
        return self.batch.column(name).to_numpy().astype(np.int64, copy=False)

    def column(self, attribute: Attribute) -> pa.Array | None:
        """An attribute's column; None where no event has it."""
        return self.batch.column(attribute.column) if attribute in self.attributes else None


def _digest(header: bytes, value: bytes | memoryview) -> bytes:
    digest = xxh3_64(header)
    digest.update(value)
    found: bytes = digest.digest()
    return found


def texts(column: pa.Array) -> tuple[Bytes, Ints, Ints]:
    """The buffer of a string column, uint8, and where each of its n texts begins and ends in it, int64 [n]. A null has
    no length."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    letters = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return letters, bounds[:-1], bounds[1:]
