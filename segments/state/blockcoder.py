"""Blocks as columns of integers: what ColumnCoder makes of events one by one, without a Python object for an event.

A listed text is known by its hash. Two texts with one 64-bit hash would share a code; of the few that a spec lists,
none do (the coder refuses a spec where they did), and a stranger's text that shares one is taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forebay.arrays import Ints, Places
from forebay.errors import SpecError
from forebay.segments.blocks.block import Block, texts
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE, TICK, USER_PROFILE, Attribute, Scope
from forebay.segments.spec import Side, Spec
from forebay.segments.spec.attribute import MAX_NUMBER, THOUSANDTHS, AttributeSpec
from forebay.segments.state.columns import Columns
from forebay.segments.state.hashing import hashes_of
from forebay.segments.state.ids import Ids, hash_ids
from forebay.segments.state.stretch import Stretch

_UPDATES = {"user": USER_PROFILE, "item": ITEM_UPDATE}


class BlockCoder:
    """Turns one side's blocks into what a fold takes. It keeps nothing of a block."""

    def __init__(self, spec: Spec, side: Side) -> None:
        """Raises SpecError for two listed texts with one hash."""
        self._side = side
        self._actions = _Known(spec.events.actions)
        self._acted = [_AttributeCoder("item", a) for a in spec.attributes["item"]] if side == "user" else []
        self._acted += [_AttributeCoder("event", a) for a in spec.event_attributes]
        self._own = [_AttributeCoder(side, a) for a in spec.attributes[side]]
        self.event_width, self.update_width = 3 + len(self._acted), len(self._own)  # columns of the matrices

    def stretches(self, block: Block) -> list[Stretch]:
        """A block of one partition, in order of the log, cut at its ticks."""
        kinds, times = block.numbers("kind"), block.numbers("time")
        acted, updated = kinds == BEHAVIOUR, kinds == _UPDATES[self._side]
        behaviours, updates = self._behaviours(block, times), self._updates(block, times)
        found, start = [], 0
        for place in [*np.flatnonzero(kinds == TICK).tolist(), len(block)]:
            end = min(place + 1, len(block))
            if start == end:
                break
            part = slice(start, end)
            at_acted = np.flatnonzero(acted[part]) + start
            at_updated = np.flatnonzero(updated[part]) + start
            tick = int(times[place]) if place < len(block) else 0
            found.append(Stretch(behaviours.take(at_acted), updates.take(at_updated), tick))
            start = end
        return found

    def split(self, block: Block) -> tuple[Columns, Columns]:
        """The behaviours and the updates of a block, each in its order, whatever ticks lie between them."""
        kinds, times = block.numbers("kind"), block.numbers("time")
        acted, updated = np.flatnonzero(kinds == BEHAVIOUR), np.flatnonzero(kinds == _UPDATES[self._side])
        return self._behaviours(block, times).take(acted), self._updates(block, times).take(updated)

    def _behaviours(self, block: Block, times: Ints) -> Columns:
        entities, others = (
            _ids(block, name) for name in (("user", "item") if self._side == "user" else ("item", "user"))
        )
        matrix = np.empty((len(block), 3 + len(self._acted)), np.int64)
        matrix[:, 0] = others.hashes
        matrix[:, 1] = self._actions.places(_ids(block, "action").hashes) + 1
        matrix[:, 2] = block.numbers("value")
        for place, coder in enumerate(self._acted, start=3):
            matrix[:, place] = coder.codes(block)
        return Columns(entities, times, _ids(block, "id").hashes, matrix)

    def _updates(self, block: Block, times: Ints) -> Columns:
        matrix = np.empty((len(block), len(self._own)), np.int64)
        for place, coder in enumerate(self._own):
            matrix[:, place] = coder.codes(block)
        return Columns(_ids(block, self._side), times, _ids(block, "id").hashes, matrix)


def _ids(block: Block, name: str) -> Ids:
    return Ids.of_buffer(*texts(block.batch.column(name)))


class _Known:
    """Listed texts, found by hash."""

    def __init__(self, listed: Sequence[str]) -> None:
        hashes = hash_ids(listed)
        self._order: Places = np.argsort(hashes)
        self._hashes = hashes[self._order]
        if len(np.unique(hashes)) < len(hashes):
            raise SpecError("two listed texts share a 64-bit hash", where=", ".join(listed), do="Rename one of them")

    def places(self, hashes: Ints) -> Ints:
        """int64 [n]: the place of each among the listed ones, -1 for any other."""
        if not len(self._hashes):
            return np.full(len(hashes), -1, np.int64)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._order[at], -1)


class _AttributeCoder:
    def __init__(self, scope: Scope, spec: AttributeSpec) -> None:
        self._spec, self._known = spec, _Known(spec.values)
        kinds = {"number": "number", "set": "texts", "category": "text"}
        self._attribute = Attribute(scope, spec.name, kinds[spec.kind])  # type: ignore[arg-type]

    def codes(self, block: Block) -> Ints:
        """int64 [n], as Columns has them."""
        column, count = block.column(self._attribute), len(block)
        absent = 1 if self._spec.kind == "set" else 0
        if column is None:
            return np.full(count, absent, np.int64)
        match self._spec.kind:
            case "number":
                return _numbers(column)
            case "set":
                return self._masks(column)
            case _:
                hashes = hashes_of(*texts(column))
                if self._spec.buckets:
                    codes = (hashes.view(np.uint64) % np.uint64(self._spec.buckets)).astype(np.int64) + 1
                else:
                    codes = self._known.places(hashes) + 1
                return np.where(_there(column), codes, 0)

    def _masks(self, column: pa.Array) -> Ints:
        bounds = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        places = self._known.places(hashes_of(*texts(column.values)))
        bits = np.where(places < 0, 1, np.left_shift(2, np.maximum(places, 0)))
        masks = np.ones(len(column), np.int64)
        full = np.flatnonzero((bounds[1:] > bounds[:-1]) & _there(column))
        if len(full):
            # reduceat goes on to the next start: between two full lists lie empty ones, or members that nobody has.
            edges = np.stack([bounds[:-1][full], bounds[1:][full]], axis=1).ravel()
            reduced = np.bitwise_or.reduceat(np.append(bits, 0), edges)
            masks[full] = reduced[::2]
        return masks


def _numbers(column: pa.Array) -> Ints:
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)  # a null is NaN
    kept = np.abs(values) < MAX_NUMBER
    return np.where(kept, np.rint(np.where(kept, values, 0.0) * THOUSANDTHS).astype(np.int64) * 2 + 1, 0)


def _there(column: pa.Array) -> Places:
    valid: Places = column.is_valid().to_numpy(zero_copy_only=False)
    return valid
