"""The read-out: integer state rows into the arrays that an encoder takes. Here floats begin, decay and ages included.

A read-out is a function of (row, spec, vocabulary) alone: ages count from the row's own newest event, never from a
clock.

A decayed count weighs each time bucket 2^(-age / half-life). Its age is that from the bucket of the newest event that
this very feature counts: the newest of any other feature would change a vector that nothing marked pending. So between
two such events nothing decays, and what decay tells is which keys are recent beside the older ones. The read-out is the
one of plain counts and means, over the weighed numbers: log1p of the totals and their shares, or sums and counts over
(count + 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Doubles, Floats, Ints, Places
from forebay.segments.spec import FeatureSpec, SegmentSpec, Spec
from forebay.segments.spec.attribute import THOUSANDTHS, AttributeSpec
from forebay.segments.state.decay import decayed
from forebay.segments.state.layout import Block, Layout
from forebay.segments.state.staterows import Lists, StateRows


@dataclass(frozen=True)
class Inputs:
    """What one segment's encoder reads for n entities.

    `dense` float32 [n, dense width]; `sequence` float32 [n, list size, sequence width], `items` int64 [n, list size]
    vocabulary places and `length` int64 [n] entries in use (0 wide where the segment has no list); `own` int64 [n], the
    entity's own vocabulary place. Unused entries are zero.
    """

    dense: Floats
    sequence: Floats
    items: Ints
    length: Ints
    own: Ints

    def __len__(self) -> int:
        return len(self.own)

    def take(self, index: slice | Places) -> Inputs:
        """The entities at `index`."""
        return Inputs(self.dense[index], self.sequence[index], self.items[index], self.length[index], self.own[index])


@dataclass(frozen=True)
class Vocabulary:
    """The items known at training, sorted hashes int64 [m]. An item's place is 1 … m; 0 is any other."""

    hashes: Ints

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, hashes: Ints) -> Vocabulary:
        return cls(np.unique(hashes))

    @cached_property
    def table(self) -> npt.NDArray[np.int32]:
        """See read_lists."""
        from forebay.segments.state.listread import table_of  # numba, which `forebay spec check` does without

        return table_of(self.hashes)

    def places(self, hashes: Ints) -> Ints:
        """int64 of the same shape."""
        if not len(self.hashes):
            return np.zeros_like(hashes)
        found = np.searchsorted(self.hashes, hashes)
        found[found == len(self.hashes)] = 0
        return np.where(self.hashes[found] == hashes, found + 1, 0)


class SegmentReader:
    """Reads one segment's features out of its side's rows."""

    def __init__(self, spec: Spec, segment: SegmentSpec, layout: Layout, vocabulary: Vocabulary) -> None:
        self._spec, self._side, self._vocabulary = spec, segment.side, vocabulary
        self._dense = [(f, layout.block(f)) for f in segment.features if f.kind in ("count", "mean", "latest")]
        lists = [(f, layout.block(f)) for f in segment.features if f.kind == "last"]
        self._list = lists[0] if lists else None
        self._own = any(f.kind == "id" for f in segment.features)
        self.dense_width = sum(self._width(f, b) for f, b in self._dense)
        ends = np.cumsum([0, *(self._width(f, b) for f, b in self._dense)]).tolist()
        self.dense_columns = [(f, slice(a, b)) for (f, _), a, b in zip(self._dense, ends[:-1], ends[1:], strict=True)]
        self.list_size = self._list[0].size if self._list else 0
        self.sequence_width = sum(self._column_width(c) for c in self._list[0].of) if self._list else 0

    @property
    def binary_columns(self) -> Bools:
        """bool [sequence width]: which columns of an entry are nought or one, whatever the state."""
        found: list[bool] = []
        for column in self._list[0].of if self._list else ():
            width = self._column_width(column)
            number = column in ("value", "age") or (width != 0 and column != "action" and self._is_number(column))
            found += [not number] * width
        return np.array(found, dtype=bool)

    def _is_number(self, column: str) -> bool:
        return self._spec.column(column).kind == "number"

    def read(self, rows: Ints, hashes: Ints) -> Inputs:
        """Inputs of state rows int64 [n, width] and their entities' hashed ids int64 [n]."""
        return self.read_rows(StateRows(rows, hashes))

    def read_rows(self, given: StateRows) -> Inputs:
        """`read`; the arrays of its list are those that another reader has made of the same rows."""
        return Inputs(self.dense(given.rows), *self._lists(given), self.own(given.hashes))

    def _lists(self, given: StateRows) -> Lists:
        count = len(given)
        if self._list is None:
            items, length = np.zeros((count, 0), dtype=np.int64), np.zeros(count, dtype=np.int64)
            return np.zeros((count, 0, 0), dtype=np.float32), items, length
        feature, block = self._list
        if (key := (block.offset, feature.of)) not in given.lists:
            sequence = np.zeros((count, self.list_size, self.sequence_width), dtype=np.float32)
            items = np.zeros((count, self.list_size), dtype=np.int64)
            given.lists[key] = sequence, items, self._read_list(feature, block, given.rows, sequence, items)
        return given.lists[key]

    def dense(self, rows: Ints) -> Floats:
        """The dense features alone, float32 [n, dense width]."""
        from forebay.segments.state.denseread import read_dense

        found = np.zeros((len(rows), self.dense_width), dtype=np.float32)
        read_dense(rows, self._dense_plan, found)
        for (feature, columns), (_, block) in zip(self.dense_columns, self._dense, strict=True):
            if feature.half_life_ms:
                found[:, columns] = decayed(feature, block, rows)
        return found

    def own(self, hashes: Ints) -> Ints:
        """The entities' own vocabulary places, int64 [n]."""
        return self._vocabulary.places(hashes) if self._own else np.zeros(len(hashes), dtype=np.int64)

    @property
    def listed(self) -> tuple[FeatureSpec, Block] | None:
        """Its list and where that lies in a row, where it has one."""
        return self._list

    def entries(self, columns: Ints) -> tuple[Floats, Ints]:
        """What a list has of events with `columns` int64 [n, columns of the list]: float32 [n, sequence width], the age
        left out, and the items' vocabulary places int64 [n]. As `read` makes it of their state."""
        assert self._list is not None
        feature, block = self._list
        sequence = np.zeros((len(columns), self.sequence_width), dtype=np.float32)
        items, at = np.zeros(len(columns), dtype=np.int64), 0
        for column in feature.of:
            width = self._column_width(column)
            if column == "item":
                items = self._vocabulary.places(columns[:, block.columns.index(column)])
            elif column != "age":
                sequence[:, at : at + width] = self._values(column, columns[:, block.columns.index(column)])
            at += width
        return sequence, items

    @property
    def age_column(self) -> int | None:
        """Which column of a sequence is the age, where one is."""
        at = 0
        for column in self._list[0].of if self._list else ():
            if column == "age":
                return at
            at += self._column_width(column)
        return None

    def blank(self, count: int) -> Inputs:
        """Inputs of `count` entities of which nothing is known."""
        shapes = ((self.dense_width,), (self.list_size, self.sequence_width))
        dense, sequence = (np.zeros((count, *shape), dtype=np.float32) for shape in shapes)
        items, none = np.zeros((count, self.list_size), dtype=np.int64), np.zeros(count, dtype=np.int64)
        return Inputs(dense, sequence, items, none, none.copy())

    def newest(self, rows: Ints) -> Ints:
        """Event time (ms) int64 [n] of the newest event in the segment; 0 where it has none."""
        newest = np.zeros(len(rows), dtype=np.int64)
        for _, block in self._dense:  # a dense block's first column is its newest time
            np.maximum(newest, rows[:, block.offset], out=newest)
        if self._list:
            _, block = self._list
            used = rows[:, block.offset]
            column = block.offset + 1 + np.maximum(used - 1, 0) * block.stride
            np.maximum(newest, np.where(used > 0, rows[np.arange(len(rows)), column], 0), out=newest)
        return newest

    def _width(self, feature: FeatureSpec, block: Block) -> int:
        match feature.kind:
            case "latest":
                return sum(_attribute_width(self._spec.attribute(self._side, c)) for c in feature.of)
            case "mean":
                return 2 * block.keys
            case _:
                return block.keys + (block.keys if block.keys > 1 else 0)

    @cached_property
    def _dense_plan(self) -> Ints:
        """See read_dense: all but what decays."""
        from forebay.segments.state.denseread import CODE, COUNT, MEAN, NUMBER, SET

        becomes = {"category": CODE, "set": SET, "number": NUMBER}
        plan: list[tuple[int, int, int, int, int]] = []
        for (feature, columns), (_, block) in zip(self.dense_columns, self._dense, strict=True):
            if feature.kind == "latest":
                at = columns.start
                for place, name in enumerate(feature.of):
                    attribute = self._spec.attribute(self._side, name)
                    width = _attribute_width(attribute)
                    plan.append((becomes[attribute.kind], block.offset + 2 + place, at, 1, width))
                    at += width
            elif not feature.half_life_ms:
                kind = COUNT if feature.kind == "count" else MEAN
                plan.append((kind, block.offset + 1, columns.start, feature.buckets, block.keys))
        return np.array(plan, np.int64).reshape(-1, 5)

    def _column_width(self, column: str) -> int:
        match column:
            case "item":
                return 0  # an embedding of the encoder's own
            case "action":
                return len(self._spec.events.actions) + 1
            case "value" | "age":
                return 1
        return _attribute_width(self._spec.column(column))

    def _read_list(self, feature: FeatureSpec, block: Block, rows: Ints, sequence: Floats, items: Ints) -> Ints:
        from forebay.segments.state.listread import read_ages, read_lists

        rows, used = np.ascontiguousarray(rows), rows[:, block.offset]
        ages = np.zeros((0, 0))
        if "age" in feature.of:
            ages = np.zeros((len(rows), feature.size))
            read_ages(rows, block.offset, block.stride, ages)
            # Not in the kernel: the last bit of a logarithm is its library's affair.
            np.log1p(ages, out=ages)
        plan = self._list_plan
        known = self._vocabulary
        read_lists(
            rows, block.offset, block.stride, ages, plan, known.table, known.hashes, sequence, items,
        )  # fmt: skip
        return used.copy()

    @cached_property
    def _list_plan(self) -> Ints:
        """See read_lists."""
        from forebay.segments.state.listread import AGE, CODE, ITEM, NUMBER, SET, THOUSANDTH

        assert self._list is not None
        feature, block = self._list
        becomes = {"category": CODE, "set": SET, "number": NUMBER}
        fixed = {"item": ITEM, "age": AGE, "value": THOUSANDTH, "action": CODE}
        plan, start = [], 0
        for column in feature.of:
            width = self._column_width(column)
            stored = 0 if column == "age" else 2 + block.columns.index(column)
            kind = fixed[column] if column in fixed else becomes[self._spec.column(column).kind]
            plan.append((kind, stored, start, width))
            start += width
        return np.array(plan, np.int64).reshape(-1, 4)

    def _values(self, column: str, stored: Ints) -> Floats | Doubles | Bools:
        """[n, width] of a list's column, neither an item nor an age, from what is stored of it int64 [n]."""
        if column == "value":
            return stored[:, None] / THOUSANDTHS
        if column == "action":
            return stored[:, None] == np.arange(self._column_width(column))
        return _spread(stored, self._spec.column(column))


def _attribute_width(attribute: AttributeSpec) -> int:
    return 2 if attribute.kind == "number" else attribute.width


def _spread(codes: Ints, attribute: AttributeSpec) -> Floats:
    """float32 [n, width] of codes int64 [n]: one-hot, multi-hot, or (number, is it there)."""
    match attribute.kind:
        case "category":
            return (codes[:, None] == np.arange(attribute.width)).astype(np.float32)
        case "set":
            return ((codes[:, None] >> np.arange(attribute.width)) & 1).astype(np.float32)
        case "number":
            # Odd codes are numbers (columns.py); 0, the column of a row without an update, is none.
            return np.stack([(codes >> 1) / THOUSANDTHS, codes & 1], axis=1).astype(np.float32)
