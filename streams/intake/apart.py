"""A Block taken apart: its events as Fields again, as a reader would have found them. The way back from assemble.py."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from forebay.arrays import Bytes, Doubles, Ints
from forebay.segments.blocks.block import Block, texts
from forebay.segments.blocks.schema import TEXTS, Attribute
from forebay.streams.intake.fields import KINDS, SCOPES, Fields, Owned


def taken_apart(block: Block) -> Fields:
    """The events of `block`, all of them read."""
    count, buffer = len(block), _Buffer()
    places = np.zeros((count, len(TEXTS), 2), np.int64)
    for place, name in enumerate(TEXTS):
        places[:, place] = buffer.put_column(block.batch.column(name))
    owning = _Owning(buffer)
    for attribute in block.attributes:
        owning.put(attribute, block.batch.column(attribute.column))
    kinds, read = block.numbers("kind").astype(np.int8), np.ones(count, np.bool_)
    owned = owning.arrays()
    return Fields(buffer.bytes(), read, kinds, block.numbers("time"), block.numbers("value"), places, owned)


class _Buffer:
    """Texts one behind the other."""

    def __init__(self) -> None:
        self._parts: list[Bytes] = []
        self._size = 0

    def put(self, letters: Bytes) -> int:
        """Where they begin."""
        self._parts.append(letters)
        self._size += len(letters)
        return self._size - len(letters)

    def put_column(self, column: pa.Array) -> Ints:
        """int64 [n, 2]: where each text of it begins and ends."""
        letters, starts, ends = texts(column)
        return np.stack([starts, ends], axis=1) + self.put(letters)

    def bytes(self) -> Bytes:
        return np.concatenate(self._parts)


class _Owning:
    """Attributes, a column at a time."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer, self._listed = buffer, 0
        self._rows, self._codes = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int8)]
        self._names, self._texts = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
        self._numbers: list[Doubles] = [np.zeros(0, np.float64)]
        self._members = [np.zeros((0, 2), np.int64)]

    def put(self, attribute: Attribute, column: pa.Array) -> None:
        rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        name = np.frombuffer(attribute.name.encode(), np.uint8)
        start = self._buffer.put(name)
        spans, numbers = np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.float64)
        if attribute.kind == "number":
            numbers = column.to_numpy(zero_copy_only=False)[rows]
        elif attribute.kind == "text":
            spans = self._buffer.put_column(column)[rows]
        else:
            bounds = column.offsets.to_numpy().astype(np.int64) + self._listed
            spans = np.stack([bounds[:-1], bounds[1:]], axis=1)[rows]
            self._members.append(self._buffer.put_column(column.values))
            self._listed += len(column.values)
        code = np.array([SCOPES.index(attribute.scope), KINDS.index(attribute.kind)], np.int8)
        self._rows.append(rows)
        self._codes.append(np.tile(code, (len(rows), 1)))
        self._names.append(np.tile(np.array([start, start + len(name)], np.int64), (len(rows), 1)))
        self._texts.append(spans)
        self._numbers.append(numbers)

    def arrays(self) -> Owned:
        codes = np.concatenate(self._codes)
        return Owned(
            np.concatenate(self._rows),
            codes[:, 0],
            codes[:, 1],
            np.concatenate(self._names),
            np.concatenate(self._texts),
            np.concatenate(self._numbers),
            np.concatenate(self._members),
        )
