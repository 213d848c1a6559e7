"""State rows whose features are moved to where no log has been: what the largest score is then, is asked of a bundle.

Counts of a billion, values at both ends of what an event may carry, numbers of 1e15 to either side, lists that span
fifty years.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forebay.arrays import Ints, Places
from forebay.clock import DAY_MS
from forebay.events import MAX_VALUE
from forebay.segments.bundle import Bundle
from forebay.segments.evaluation.replayed import Served
from forebay.segments.evaluation.results import Figure, RowResult, Section
from forebay.segments.spec import SIDES, Spec
from forebay.segments.spec.attribute import MAX_NUMBER, THOUSANDTHS
from forebay.segments.spec.words import in_words
from forebay.segments.state.layout import Block, Layout

COUNT = 10**9
VALUED = 10**5  # events behind an extreme mean: a thousand buckets of their sums still fit an int64
SPAN_MS = 50 * 365 * DAY_MS
VALUE = round(MAX_VALUE * THOUSANDTHS)
NUMBER = round(MAX_NUMBER * THOUSANDTHS) * 2  # an attribute's code is 2 · thousandths + 1 (columns.py)
KINDS = ("counts", "values", "numbers", "ages", "all")
SAMPLE = 32  # users and items that are moved, and each scored with each


def section(one: Served) -> Section:
    """The largest |logit| of the part and at extremes of each kind, with bounds and without; and what bounds cost."""
    rows = []
    for name, other in (("bounded, as served", one), ("without bounds", Served(unbounded(one.bundle), one.replayed))):
        scores = other.scores()
        ranked = one.replayed.ranking(scores) | one.replayed.retrieval(other.choice_scores())
        figures = {k: Figure((ranked[k],)) for k in ("auc", "request_gauc", "logloss", "recall@50", "ndcg@10")}
        told = {"test part": float(np.abs(scores).max()), **largest(other)}
        rows.append(RowResult(name, figures, {f"|logit| {k}": f"{v:,.1f}" for k, v in told.items()}))
    return Section(
        "extremes", "Beyond what training saw",
        "The largest |logit| of the test part, and of some of its users and items with each feature in turn, then all "
        "of a side, "
        "moved to where no log has been: counts of a billion, values of a million, numbers of 1e15, lists over fifty "
        "years. One seed.",
        rows, rows[1].figures,
        "Inside of what training saw bounds change nothing; beyond, a read-out ends half a range further.",
    )  # fmt: skip


def largest(one: Served) -> dict[str, float]:
    """By kind the largest |logit| of `rank` over the last users and items of the part, one side moved at a time."""
    bundle, replayed = one.bundle, one.replayed
    fusion, read = bundle.fusions["rank"], bundle.spec.fusions["rank"].segments
    rows = {side: replayed.states(side, 0.0)[-SAMPLE:] for side in SIDES}
    hashes = {side: replayed.part.hashes(side)[-SAMPLE:] for side in SIDES}
    still = {side: one.encoders(side).encode_all(rows[side], hashes[side], read) for side in SIDES}
    found = dict.fromkeys(KINDS, 0.0)
    for side in SIDES:
        for kind, _, moved in extremes(bundle.spec, bundle.layouts[side], rows[side]):
            vectors = {**still, side: one.encoders(side).encode_all(moved, hashes[side], read)}
            halves = fusion.item_half(vectors["item"])
            most = max(float(np.abs(fusion.join(fusion.user_half(u), halves)).max()) for u in vectors["user"])
            found[kind] = max(found[kind], most)
    return found


def unbounded(bundle: Bundle) -> Bundle:
    """The bundle as those of before there were bounds."""
    return Bundle(bundle.spec, {n: t for n, t in bundle.tensors.items() if ".bounds." not in n}, bundle.record)


def extremes(spec: Spec, layout: Layout, rows: Ints) -> Iterator[tuple[str, str, Ints]]:
    """(one of KINDS, what was moved, the rows) for each feature and each of its ends; `rows` int64 [n, width] stay as
    they are. The last ones have every feature of the side moved at once, upwards and downwards."""
    everything = {end: rows.copy() for end in ("up", "down")}
    for block in layout.blocks:
        for kind, name, end, columns, values in _moves(spec, layout, block, rows):
            moved = rows.copy()
            for changed in (moved, everything[end]):
                changed[:, columns] = values
            yield kind, f"{in_words(block.feature)}{name}", moved
    for end, changed in everything.items():
        yield "all", f"everything {end}", changed


def _moves(spec: Spec, layout: Layout, block: Block, rows: Ints) -> Iterator[tuple[str, str, str, Places, Ints]]:
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


def _numbers(name: str, columns: Places, count: int) -> Iterator[tuple[str, str, str, Places, Ints]]:
    for end, sign in (("up", 1), ("down", -1)):
        yield (
            "numbers",
            f": {name} {sign * MAX_NUMBER:+g}",
            end,
            columns,
            np.full((count, len(columns)), sign * NUMBER + 1),
        )


def _list(spec: Spec, block: Block, rows: Ints) -> Iterator[tuple[str, str, str, Places, Ints]]:
    """A list is moved where it is filled; its entries' times where it is made full."""
    size, first = block.feature.size, block.offset + 1
    for place, name in enumerate(block.columns):
        columns = first + 2 + place + np.arange(size) * block.stride
        if name == "value":
            for end, sign in (("up", 1), ("down", -1)):
                yield "values", f": value {sign * MAX_VALUE:+g}", end, columns, np.full((len(rows), size), sign * VALUE)
        elif name not in ("item", "action") and spec.column(name).kind == "number":
            yield from _numbers(name, columns, len(rows))
    if "age" in block.feature.of:
        newest = rows[:, block.offset + 1 : block.offset + block.size : block.stride].max(axis=1)
        ages = np.linspace(SPAN_MS, 0, size).astype(np.int64)
        columns = np.concatenate([[block.offset], first + np.arange(size) * block.stride])
        full = np.full((len(rows), 1), size)
        values = np.concatenate([full, np.maximum(newest, SPAN_MS)[:, None] - ages], axis=1)
        yield "ages", ": fifty years", "up", columns, values
