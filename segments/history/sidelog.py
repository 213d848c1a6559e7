"""One side's history as columns: what a replay folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import BEHAVIOUR
from forebay.segments.history.joinkeys import JoinKeys, join_keys
from forebay.segments.spec import Side, Spec
from forebay.segments.state.blockcoder import BlockCoder
from forebay.segments.state.columns import Columns
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids, hash_ids

_NOBODY = np.zeros(1, np.int64)


@dataclass(frozen=True)
class SideLog:
    """One side's history: `entities` (row number = place) with their hashed ids, and its entries sorted by (entity,
    time). Whose an entry is stands in `entity`: the `entities` of both Columns are blank. `keys` are of the
    behaviours."""

    side: Side
    entities: list[str]
    hashes: Ints  # [entities]
    behaviours: Columns
    at: Ints  # [behaviours] row number
    updates: Columns
    entity: Ints  # [entries] row number
    time: Ints  # [entries]
    source: Ints  # [entries] place in `behaviours`, or -1 - place in `updates`
    starts: Ints  # [entities + 1] first entry of each
    keys: JoinKeys

    @classmethod
    def of(cls, spec: Spec, side: Side, blocks: Iterable[Block]) -> SideLog:
        """The history of one side, each of its behaviours once."""
        coder, names = BlockCoder(spec, side), _Names()
        acted, updated = _Gathered(coder.event_width), _Gathered(coder.update_width)
        keys: list[JoinKeys] = []
        for block in blocks:
            behaviours, updates = coder.split(block)
            names.add(behaviours.entities)
            names.add(updates.entities)
            acted.add(behaviours)
            updated.add(updates)
            if spec.label.join:
                keys.append(join_keys(block.take(np.flatnonzero(block.numbers("kind") == BEHAVIOUR)), spec.label.join))
        entities, order = names.sorted()
        (behaviours, whose), (updates, updated_at) = acted.whole(), updated.whole()
        at, updated_at = order.rows(whose), order.rows(updated_at)
        by_time = Fold.order(at, behaviours)
        behaviours, at = behaviours.take(by_time), at[by_time]
        entity = np.concatenate([at, updated_at])
        time = np.concatenate([behaviours.times, updates.times])
        source = np.concatenate([np.arange(len(at)), -1 - np.arange(len(updates))])
        sort = np.lexsort((source, time, entity))
        entity, time, source = entity[sort], time[sort], source[sort]
        starts = np.searchsorted(entity, np.arange(len(entities) + 1))
        joined = JoinKeys.joined(keys).take(by_time) if spec.label.join else JoinKeys.same(len(at))
        return cls(
            side, entities, hash_ids(entities), behaviours, at, updates, entity, time, source, starts, joined
        )  # fmt: skip

    def rows_of(self, ids: Sequence[str]) -> Ints:
        """int64 [n] row numbers of entities; -1 for one without history."""
        return self.rows_of_hashes(hash_ids(ids))

    def rows_of_hashes(self, hashes: Ints) -> Ints:
        """int64 [n] row numbers of entities by their hashed ids int64 [n]; -1 for one without history."""
        return _Order.of(self.hashes).rows(hashes)


@dataclass(frozen=True)
class _Order:
    """Hashes in ascending order, and the row of each."""

    hashes: Ints
    row: Ints

    @classmethod
    def of(cls, hashes: Ints) -> _Order:
        """`hashes` int64 [n] by row number."""
        row = np.argsort(hashes)
        return cls(hashes[row], row)

    def rows(self, hashes: Ints) -> Ints:
        if not len(self.hashes):
            return np.full(len(hashes), -1, np.int64)
        found = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known: Bools = self.hashes[found] == hashes
        return np.where(known, self.row[found], -1)


class _Names:
    """Every entity that was met, by hash: a string for each of them, and none for an event."""

    def __init__(self) -> None:
        self._names: dict[int, bytes] = {}

    def add(self, ids: Ids) -> None:
        hashes, first = np.unique(ids.hashes, return_index=True)
        new = np.array([h not in self._names for h in hashes.tolist()], dtype=bool)
        if new.any():
            self._names.update(zip(hashes[new].tolist(), ids.take(first[new]).to_bytes(), strict=True))

    def sorted(self) -> tuple[list[str], _Order]:
        """The names in order, and the row of each hash."""
        pairs = sorted(self._names.items(), key=lambda pair: pair[1])
        return [name.decode() for _, name in pairs], _Order.of(np.array([h for h, _ in pairs], np.int64))


class _Gathered:
    """Columns in chunks; who they are of as a hash alone."""

    def __init__(self, width: int) -> None:
        self._chunks: list[Columns] = []
        self._width = width

    def add(self, columns: Columns) -> None:
        if len(columns):
            self._chunks.append(columns)

    def whole(self) -> tuple[Columns, Ints]:
        """All of them as one, and the hashed entity of each int64 [n]. The chunks are let go."""
        chunks, self._chunks = self._chunks, []
        none = np.zeros(0, np.int64)
        whose = np.concatenate([none, *(c.entities.hashes for c in chunks)])
        # Nobody reads the ids of a replay's events: one nought stands for all of them.
        blank = np.broadcast_to(_NOBODY, len(whose))
        times = np.concatenate([none, *(c.times for c in chunks)])
        ids = np.concatenate([none, *(c.ids for c in chunks)])
        matrix = np.concatenate([np.zeros((0, self._width), np.int64), *(c.matrix for c in chunks)])
        return Columns(Ids(np.zeros(0, np.uint8), blank, blank, blank), times, ids, matrix), whose
