"""The catalogue: what is known of items, for behaviours that come without item attributes.

An item's attributes are those of its newest accepted update, by (time, hashed id). The compacted topic `catalogue` has
that update of every item, and each Intake follows the topic whole. What this Intake accepted itself counts at once, and
lies *ahead* until it is read back from the topic: a transaction may be aborted, and what it took was never accepted
then. So `drop` forgets what is ahead, and whatever of it was committed comes back by the topic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forebay.arrays import Ints
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE
from forebay.segments.state.hashing import hashes_of
from forebay.streams.intake.fields import ID, ITEM, ITEM_SCOPE, Fields, Owned, with_attributes
from forebay.streams.intake.items import Items

CATALOGUE_BYTES = 1 << 30


class Catalogue:
    """Of one Intake process. One thread.

    Past `memory_bytes` no item is taken that is not there already: its behaviours come out as they came in. The bound
    is looked at before each batch, and columns grow by halves, so that about half as much may be taken besides.
    """

    def __init__(self, memory_bytes: int = CATALOGUE_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._known, self._ahead = Items(), Items()

    def __len__(self) -> int:
        """How many items it has read of."""
        return len(self._known)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._known.nbytes + self._ahead.nbytes

    def learn(self, fields: Fields, rows: Ints) -> int:
        """The updates at `rows` int64 were read from the topic: they are in the log. Returns how many items are left
        out for want of memory."""
        rows, hashes, times, ids = _newest(fields, rows)
        newer, out = self._known.newer(hashes, times, ids), np.zeros(len(rows), np.bool_)
        if self.nbytes > self._memory_bytes:
            out = self._known.find(hashes) < 0
            newer &= ~out
        _put(self._known, fields, rows[newer], hashes[newer], times[newer], ids[newer])
        ahead, times, ids = self._ahead.stamps()
        if len(ahead):
            read_back = ~self._known.newer(ahead, times, ids) | np.isin(ahead, hashes[out])
            if read_back.any():
                self._ahead = self._ahead.without(read_back)
        return int(out.sum())

    def forget(self, items: Sequence[bytes]) -> None:
        """The topic says that these are gone."""
        letters = np.frombuffer(b"".join(items), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, items), np.int64, len(items)))
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        self._known.forget(hashes_of(letters, starts, ends))

    def take(self, fields: Fields, rows: Ints) -> Ints:
        """Those of the updates at `rows` int64 that are newer than what is known: one for each item, to be written to
        the topic. They count from now on, until `drop`."""
        rows = rows[fields.kind[rows] == ITEM_UPDATE]
        if not len(rows):
            return rows
        rows, hashes, times, ids = _newest(fields, rows)
        newer = self._known.newer(hashes, times, ids) & self._ahead.newer(hashes, times, ids)
        _put(self._ahead, fields, rows[newer], hashes[newer], times[newer], ids[newer])
        return rows[newer]

    def drop(self) -> None:
        """Forget what was taken and not read back: whether it is in the log is not known."""
        self._ahead = Items()

    def fill(self, fields: Fields, rows: Ints) -> Fields:
        """With item attributes for those behaviours at `rows` int64 that have none and whose item is known."""
        had = np.zeros(len(fields), np.bool_)
        had[fields.owned.row[fields.owned.scope == ITEM_SCOPE]] = True
        bare = rows[(fields.kind[rows] == BEHAVIOUR) & ~had[rows]]
        if not len(bare):
            return fields
        hashes = _hashes(fields, bare, ITEM)
        for items in (self._ahead, self._known):  # what is ahead is the newer one
            if not len(items):
                continue
            numbers = items.find(hashes)
            here = numbers >= 0
            data, owned = items.attributes(numbers[here])
            fields = with_attributes(fields, bare[here][owned.row], data, owned)
            bare, hashes = bare[~here], hashes[~here]
        return fields


def _put(items: Items, fields: Fields, rows: Ints, hashes: Ints, times: Ints, ids: Ints) -> None:
    """The updates at `rows`, of n different items, into `items`."""
    place_of = np.full(len(fields), -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    own = fields.owned
    places = place_of[own.row]
    at = np.flatnonzero(places >= 0)
    columns = (own.scope[at], own.kind[at], own.name[at], own.text[at], own.number[at])
    items.put(hashes, times, ids, fields.data, Owned(places[at], *columns, own.members))


def _newest(fields: Fields, rows: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Of updates at `rows` the newest of each item, of equal ones the first: rows, ascending, and hashes of items,
    times (ms), hashed ids."""
    hashes, times, ids = _hashes(fields, rows, ITEM), fields.time[rows], _hashes(fields, rows, ID)
    order = np.lexsort((-np.arange(len(rows)), ids, times, hashes))
    last = np.ones(len(rows), np.bool_)
    last[:-1] = hashes[order[1:]] != hashes[order[:-1]]
    chosen = np.sort(order[last])
    return rows[chosen], hashes[chosen], times[chosen], ids[chosen]


def _hashes(fields: Fields, rows: Ints, place: int) -> Ints:
    return hashes_of(fields.data, fields.texts[rows, place, 0], fields.texts[rows, place, 1])
