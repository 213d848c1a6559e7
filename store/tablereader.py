"""One side's rows in memory that another process writes: a reader. It takes no lock, and no writer waits for it.

Each call reads each row as one version of it. Two rows of one call may be of two moments, as they would be if the
second one had been written a little later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forebay.arrays import Array, Bools, Floats, Ints
from forebay.events import MAX_ID_BYTES
from forebay.segments.fusions.joined import Joined
from forebay.segments.state.ids import texts_of
from forebay.store import entityrow, kernels, onepass, rowkernels
from forebay.store.codec import HELD
from forebay.store.keptrows import Kept, KeptRows
from forebay.store.mappedtable import EPOCH_TRIES, MappedTable
from forebay.store.onepass import Passed
from forebay.store.reading import EntityRow
from forebay.store.reserved import Words
from forebay.store.rowkernels import BUSY, FOUND, MISSING, States
from forebay.store.rowwriting import find_own
from forebay.store.selection import Selection
from forebay.store.tablefiles import TableLimits
from forebay.store.tableheader import EPOCH, MARKS, NAMED, SERVED, TOP, Identity

_BUSY_TRIES, _BUSY_S = 20, 0.00025  # 5 ms for a writer that is not running just now; a dead one is waited for once

Images = npt.NDArray[np.void]  # rows in the layout's dtype

Ask = Callable[[Words, Ints, Ints, States, Ints | slice], None]  # cells, hashes; rows, states and places to fill in


@dataclass(frozen=True)
class Times:
    """Of n rows, [n, segments] each: `as_of` int64 ms, carried on by the watermark (0: never), `last_event` int64 ms
    (0: never) and `flags` uint32. Rows that were not found are zeros."""

    as_of: Ints
    last_event: Ints
    flags: npt.NDArray[np.uint32]

    @classmethod
    def empty(cls, n: int, segments: int) -> Times:
        shape = (n, segments)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.uint32))


class TableReader(MappedTable):
    """Any number of threads and processes may read one table."""

    def __init__(self, path: Path, identity: Identity, limits: TableLimits = TableLimits()) -> None:
        """Errors as in MappedTable."""
        super().__init__(path, identity, limits)
        self._half_parts = np.array(identity.layout.half_parts, np.int64)
        self._stuck: dict[int, int] = {}  # by row, the number that its writer left it with
        self._columns: tuple[int, Ints, Bools] | None = None
        self._kept = KeptRows()

    def read(self, hashes: Ints) -> tuple[Images, Times, Bools, Ints]:
        """Copies of whole rows [n] in the layout's dtype with their times, which of `hashes` int64 [n] there are bool
        [n], and row numbers int64 [n]. A row that is not there is zeros."""
        width, marks = self._layout.width, self.watermarks  # before the rows: see `times_of`
        out = np.zeros((len(hashes), width), np.uint64)

        def ask(cells: Words, wanted: Ints, rows: Ints, states: States, at: Ints | slice) -> None:
            part = out if isinstance(at, slice) else np.zeros((len(wanted), width), np.uint64)
            rowkernels.read_rows(self._words, self._layout, cells, wanted, rows, states, part)
            if not isinstance(at, slice):
                out[at] = part

        rows, states = self._asked(hashes, ask)
        found = states == FOUND
        out[~found] = 0
        images = out.view(self.identity.layout.dtype).reshape(len(hashes))
        carry = np.where(images["flags"] & HELD, 0, marks[images["partition"]][:, None])
        as_of = np.where(found[:, None], np.maximum(images["as_of"], carry), 0)
        return images, Times(as_of, images["last_event"], images["flags"]), found, rows

    def halves(self, hashes: Ints) -> tuple[Floats, Times, Bools, Ints]:
        """Item halves float32 [n, half_width] with the times of the same versions, and as `read`."""
        halves = np.zeros((len(hashes), self._layout.half_width), np.float32)
        times = Times.empty(len(hashes), self._layout.segments)

        def ask(cells: Words, wanted: Ints, rows: Ints, states: States, at: Ints | slice) -> None:
            arrays: list[Array] = [halves, times.as_of, times.last_event, times.flags]
            parts = [array[at] for array in arrays]  # views of all, or copies of a few
            rowkernels.read_halves(
                self._words, self._layout, cells, MARKS, self.identity.partitions, self._half_parts, wanted, rows,
                states, *parts,
            )  # fmt: skip
            _put(arrays, parts, at)

        rows, states = self._asked(hashes, ask)
        found = _only(states, halves, times)
        return halves, times, found, rows

    def dots(self, hashes: Ints, query: Floats, default: Floats, oldest: Ints) -> tuple[Floats, Times, Bools, Ints]:
        """Inner products float32 [n] of rows with `query` float32 [dim], and as `halves`. A segment whose `as_of` is
        before `oldest` int64 [segments] counts as `default` float32 [segments] says; so do rows that are not there."""
        scores = np.zeros(len(hashes), np.float32)
        times = Times.empty(len(hashes), self._layout.segments)
        bounds = self.identity.layout.codec.bounds

        def ask(cells: Words, wanted: Ints, rows: Ints, states: States, at: Ints | slice) -> None:
            arrays: list[Array] = [scores, times.as_of, times.last_event, times.flags]
            parts = [array[at] for array in arrays]
            rowkernels.dot_rows(
                self._words, self._layout, cells, MARKS, self.identity.partitions, wanted, rows, states,
                query, bounds, default, oldest, *parts,
            )  # fmt: skip
            _put(arrays, parts, at)

        rows, states = self._asked(hashes, ask)
        found = _only(states, None, times)
        scores[~found] = default.sum(dtype=np.float32)
        return scores, times, found, rows

    def served(self, hashes: Ints) -> tuple[Ints, Bools]:
        """The serving columns int64 [n, columns] of rows, zeros of those that are not there, and which are, bool
        [n]."""
        columns = np.zeros((len(hashes), self._layout.columns), np.int64)

        def ask(cells: Words, wanted: Ints, rows: Ints, states: States, at: Ints | slice) -> None:
            part = columns[at]  # a view of all, or a copy of a few
            rowkernels.read_served(self._words, self._layout, cells, wanted, rows, states, part)
            _put([columns], [part], at)

        _, states = self._asked(hashes, ask)
        found: Bools = states == FOUND
        columns[~found] = 0
        return columns, found

    def best_by_halves(
        self, hashes: Ints, gone: Bools, boost: Floats, k: int, oldest: Ints, joined: Joined, lacking: Floats
    ) -> Passed | None:
        """One pass of `pass_halves` over the rows of `hashes` int64 [n]; None where a half is of a row that has expired
        by `oldest` int64 [segments], and another one is to be made of what is left of it."""
        return self._passed(
            hashes, k, lambda cells, out: onepass.pass_halves(
                self._words, self._layout, cells, MARKS, self.identity.partitions, hashes, gone, boost, oldest,
                self._half_parts, joined, lacking, out,
            ),
        )  # fmt: skip

    def best_by_dots(
        self, hashes: Ints, gone: Bools, boost: Floats, k: int, oldest: Ints, query: Floats, default: Floats,
        bias: np.float32,
    ) -> Passed | None:  # fmt: skip
        """One pass of `pass_dots`; never None."""
        bounds = self.identity.layout.codec.bounds
        return self._passed(
            hashes, k, lambda cells, out: onepass.pass_dots(
                self._words, self._layout, cells, MARKS, self.identity.partitions, hashes, gone, boost, oldest,
                query, bounds, default, bias, out,
            ),
        )  # fmt: skip

    def _passed(self, hashes: Ints, k: int, run: Callable[[Words, Passed], int]) -> Passed | None:
        """Pass over all, and again while rows are being written, or were missed while the index was built anew."""
        out = Passed.empty(len(hashes), self._layout.segments, k)
        epoch, cells = self._epoch, self._cells
        for tries in range(EPOCH_TRIES):
            again = False
            if run(cells, out):
                if (out.states == onepass.EXPIRED).any():
                    return None
                again = bool(self._waited_for(out.rows, out.states, tries).any())
            if int(rowkernels.word_of(self._words, EPOCH)) != epoch:
                again = again or bool((out.states == MISSING).any())
                epoch, cells = self._index()
            if not again:
                break
        return out

    def names(self, rows: Ints, hashes: Ints) -> list[str | None]:
        """The ids of `rows` int64 [n], none where a row does not have that hash, or nobody's, by now."""
        lengths, out = np.empty(len(rows), np.int64), np.empty((len(rows), MAX_ID_BYTES), np.uint8)
        for _ in range(_BUSY_TRIES):
            names = self._names[: int(rowkernels.word_of(self._words, NAMED))]
            rowkernels.read_names(self._words, self._layout, names, rows, hashes, lengths, out)
            if (lengths > -2).all():
                break
            time.sleep(_BUSY_S)
        data, starts = (
            out.tobytes(),
            range(0, out.size, MAX_ID_BYTES),
        )  # a slice of bytes costs a third of one of an array
        return [
            data[start : start + length].decode() if length >= 0 else None
            for start, length in zip(starts, lengths.tolist(), strict=True)
        ]

    def strangers(self, rows: Ints, found: Bools, hashes: Ints, places: Ints, ids: Sequence[str]) -> Ints:
        """Those of `places` int64 [m] in `rows`, `found` and `hashes` [n] that were found, and whose row has not that
        hash and the id in `ids` [m] now."""
        states = np.empty(len(places), np.uint8)
        texts = texts_of(ids)
        for _ in range(_BUSY_TRIES):
            entityrow.own_rows(
                self._words, self._layout, NAMED, self._names, rows, found, hashes, places, *texts, states
            )
            if not (states == BUSY).any():
                break
            time.sleep(_BUSY_S)
        return places[states != FOUND]

    def entity(self, hashed: int, name: bytes, oldest: Ints, default: Floats) -> EntityRow:
        """What is to be used of the entity `name` with that hash: see `read_entity`."""
        bounds = self.identity.layout.codec.bounds
        vectors, weakest = np.empty(len(default), np.float32), np.empty((3, len(oldest)), np.int64)
        epoch, cells, state = self._epoch, self._cells, MISSING
        for tries in range(EPOCH_TRIES):
            row, state = entityrow.read_entity(
                self._words, self._layout, cells, MARKS, self.identity.partitions, NAMED, self._names, hashed,
                np.frombuffer(name, np.uint8), bounds, oldest, default, vectors, weakest,
            )  # fmt: skip
            if state == FOUND:
                break
            again = state == BUSY and self._waited_for(np.array([row]), np.array([state]), tries).any()
            if int(rowkernels.word_of(self._words, EPOCH)) != epoch:
                again, (epoch, cells) = True, self._index()
            if not again:
                break
        return EntityRow(bool(state == FOUND), vectors, weakest)

    def rows_of(self, hashes: Ints) -> Ints:
        """Row numbers int64 [n], -1 where there is none, as of just now: a row may be somebody else's by the time that
        it is used."""
        rows = np.empty(len(hashes), np.int64)
        find_own(self._words, self._layout, self._cells, np.ascontiguousarray(hashes, np.int64), rows)
        return rows

    def kept(self, selection: Selection) -> Kept:
        """Which rows `selection` keeps, as of what the writer told last of their serving columns."""
        return self._kept.of(selection, *self._described())

    def best(self, query: Floats, k: int, deny: Ints, selection: Selection | None = None) -> Ints:
        """Hashes int64 of the `k` rows with the highest inner product with `query` float32 [dim], and what `selection`
        adds to it, best first, of those that it keeps and without those in `deny`. Every row that is kept is read, each
        as one version."""
        top = int(rowkernels.word_of(self._words, TOP))
        kept, added = np.empty(0, np.bool_), np.empty(0, np.float32)
        if selection is not None:
            state, columns, live = self._described()
            kept, top = self._kept.of(selection, state, columns, live).rows, len(live)
            added = added if (more := selection.added(columns)) is None else more
            if not top:
                return np.empty(0, np.int64)
        most = top if selection is None else int(np.count_nonzero(kept))
        scores, hashes = np.empty(most, np.float32), np.empty(most, np.int64)
        rows = rowkernels.scan_rows(
            self._words, self._layout, top, query, self.identity.layout.codec.bounds, kept, added, scores, hashes
        )
        found = hashes[kernels.top_k(scores[:rows], k + len(deny))]
        return found[~np.isin(found, deny)][:k] if len(deny) else found

    def _described(self) -> tuple[int, Ints, Bools]:
        """The serving columns int64 [rows, columns] of all rows, and which are live, read again when the writer says
        that some are others, with a number for what it said. It says so after it has written."""
        state = int(rowkernels.word_of(self._words, SERVED))
        found = self._columns
        if found is None or found[0] != state:
            top = int(rowkernels.word_of(self._words, TOP))
            columns, live = np.empty((top, self._layout.columns), np.int64), np.empty(top, np.bool_)
            rowkernels.scan_served(self._words, self._layout, top, columns, live)
            self._columns = found = (state, columns, live)
        return found

    def _asked(self, hashes: Ints, ask: Ask) -> tuple[Ints, States]:
        """Ask for all, then again for those that were being written, or missed while the index was built anew."""
        rows, states = np.empty(len(hashes), np.int64), np.empty(len(hashes), np.uint8)
        epoch, cells = self._epoch, self._cells
        ask(cells, hashes, rows, states, slice(None))
        for tries in range(EPOCH_TRIES):
            again = np.flatnonzero(self._waited_for(rows, states, tries))
            if (states == MISSING).any() and int(rowkernels.word_of(self._words, EPOCH)) != epoch:
                epoch, cells = self._index()
                again = np.flatnonzero(states != FOUND)
            if not len(again):
                break
            some_rows, some_states = np.empty(len(again), np.int64), np.empty(len(again), np.uint8)
            ask(cells, hashes[again], some_rows, some_states, again)
            rows[again], states[again] = some_rows, some_states
        rows[states != FOUND] = -1
        return rows, states

    def _waited_for(self, rows: Ints, states: States, tries: int) -> Bools:
        """Which rows are to be asked for again, after a pause, because they were being written."""
        busy = states == BUSY
        if not busy.any():
            return busy
        for i in np.flatnonzero(busy).tolist():
            row = int(rows[i])
            seq = int(rowkernels.word_of(self._words, self._layout.origin + row * self._layout.width))
            if seq & 1 and self._stuck.get(row) == seq:
                busy[i] = False
            elif seq & 1 and tries >= _BUSY_TRIES:
                self._stuck[row], busy[i] = seq, False
        if busy.any():
            time.sleep(_BUSY_S)
        return busy


def _put(arrays: list[Array], parts: list[Array], at: Ints | slice) -> None:
    if not isinstance(at, slice):
        for array, part in zip(arrays, parts, strict=True):
            array[at] = part


def _only(states: States, halves: Floats | None, times: Times) -> Bools:
    """Which were found; what is left of the tries for the others is made zeros."""
    found = states == FOUND
    if not found.all():
        lost = ~found
        times.as_of[lost], times.last_event[lost], times.flags[lost] = 0, 0, 0
        if halves is not None:
            halves[lost] = 0
    return found
