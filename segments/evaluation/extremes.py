"""State rows whose features are moved to where no log has been: what the largest score is then, is asked of a bundle.

Counts of a billion, values at both ends of what an event may carry, numbers of 1e15 to either side, lists that span fifty years.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from forebay.events import MAX_VALUE
from forebay.segments.columns import MAX_NUMBER, THOUSANDTHS
from forebay.segments.layout import Block, Layout
from forebay.segments.spec import DAY_MS, Spec
from forebay.segments.words import in_words

Ints = npt.NDArray[np.int64]

COUNT = 10**9
VALUED = 10**5  # events behind an extreme mean: a thousand buckets of their sums still fit an int64
SPAN_MS = 50 * 365 * DAY_MS
VALUE = round(MAX_VALUE * THOUSANDTHS)
NUMBER = round(MAX_NUMBER * THOUSANDTHS) * 2  # an attribute's code is 2 · thousandths + 1 (columns.py)
KINDS = ("counts", "values", "numbers", "ages", "all")


def extremes(spec: Spec, layout: Layout, rows: Ints) -> Iterator[tuple[str, str, Ints]]:
    """(one of KINDS, what was moved, the rows) for each feature and each of its ends; `rows` int64 [n, width] stay as they are. The
    last ones have every feature of the side moved at once, upwards and downwards."""
    everything = {end: rows.copy() for end in ("up", "down")}
    for block in layout.blocks:
        for kind, name, end, columns, values in _moves(spec, layout, block, rows):
            moved = rows.copy()
            for changed in (moved, everything[end]):
                changed[:, columns] = values
            yield kind, f"{in_words(block.feature)}{name}", moved
    for end, changed in everything.items():
        yield "all", f"everything {end}", changed


def _moves(
    spec: Spec, layout: Layout, block: Block, rows: Ints
) -> Iterator[tuple[str, str, str, npt.NDArray[np.intp], Ints]]:
    """(kind, end in words, up or down, columns [c], values [n, c]) of one block."""
    first = block.offset + 1
    match block.feature.kind:
        case "count":
            columns = np.arange(first, block.offset + block.size)
            yield "counts", "", "up", columns, np.full((len(rows), len(columns)), COUNT)
            yield "counts", ", none", "down", columns, np.zeros((len(rows), len(columns)), dtype=np.int64)
            one = columns[block.keys - 1 :: block.keys]
            yield "counts", ", the last key alone", "up", one, np.full((len(rows), len(one)), COUNT)
        case "mean":
            columns = np.arange(first, block.offset + block.size)
            half = len(columns) // 2
            for end, sign in (("up", 1), ("down", -1)):
                for many in (1, VALUED):
                    values = np.full((len(rows), len(columns)), many)
                    values[:, half:] *= sign * VALUE
                    yield "values", f", {many:,} of {sign * MAX_VALUE:+g}", end, columns, values
        case "latest":
            for place, name in enumerate(block.columns):
                if spec.attribute(layout.side, name).kind == "number":
                    yield from _numbers(name, np.array([first + 1 + place]), len(rows))
        case "last":
            yield from _list(spec, block, rows)


def _numbers(
    name: str, columns: npt.NDArray[np.intp], count: int
) -> Iterator[tuple[str, str, str, npt.NDArray[np.intp], Ints]]:
    for end, sign in (("up", 1), ("down", -1)):
        yield (
            "numbers",
            f": {name} {sign * MAX_NUMBER:+g}",
            end,
            columns,
            np.full((count, len(columns)), sign * NUMBER + 1),
        )


def _list(spec: Spec, block: Block, rows: Ints) -> Iterator[tuple[str, str, str, npt.NDArray[np.intp], Ints]]:
    """A list is moved where it is filled; its entries' times where it is made full."""
    size, first = block.feature.size, block.offset + 1
    for place, name in enumerate(block.columns):
        columns = first + 2 + place + np.arange(size) * block.stride
        if name == "value":
            for end, sign in (("up", 1), ("down", -1)):
                yield "values", f": value {sign * MAX_VALUE:+g}", end, columns, np.full((len(rows), size), sign * VALUE)
        elif name not in ("item", "action") and spec.attribute("item", name).kind == "number":
            yield from _numbers(name, columns, len(rows))
    if "age" in block.feature.of:
        newest = rows[:, block.offset + 1 : block.offset + block.size : block.stride].max(axis=1)
        ages = np.linspace(SPAN_MS, 0, size).astype(np.int64)
        columns = np.concatenate([[block.offset], first + np.arange(size) * block.stride])
        full = np.full((len(rows), 1), size)
        values = np.concatenate([full, np.maximum(newest, SPAN_MS)[:, None] - ages], axis=1)
        yield "ages", ": fifty years", "up", columns, values
