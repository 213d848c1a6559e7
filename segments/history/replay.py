"""Point-in-time replay: an entity's state as it was before a moment, through the same fold that serves.

Training and evaluation ask "what was known of this user strictly before this event?" for many events at once, and one
replay answers all of them. An entity's entries lie between the moments that are asked about: round r folds, for some
entities at once, what lies before their r-th moment, and then answers what is asked of it. Entities with about as many
moments go together, so that the number of rounds is that of the longest among them. Answers are handed out in chunks:
nothing is held but the rows of the entities that are under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Ints, Places
from forebay.clock import HOUR_MS
from forebay.segments.history.sidelog import SideLog
from forebay.segments.state.fold import Fold
from forebay.segments.state.layout import Layout

ENTITIES = 4096  # under way together: a round costs some 50 us of Python however few they are
ANSWERS = 16_384  # handed out together: with rows of 3 kB, 50 MB


def snapshots(layout: Layout, log: SideLog, rows: Ints, times: Ints, clocks: Ints | None = None) -> Ints:
    """State int64 [m, layout.width] of entities `rows` int64 [m] (-1: none) from their entries strictly before `times`
    int64 [m] (ms). `clocks` int64 [m] is the newest tick of each question; by default the last full hour before it."""
    out = np.zeros((len(rows), layout.width), dtype=np.int64)
    for asked, states in replay(layout, log, rows, times, clocks):
        out[asked] = states
    return out


def replay(
    layout: Layout, log: SideLog, rows: Ints, times: Ints, clocks: Ints | None = None, *, lists: bool = True
) -> Iterator[tuple[Places, Ints]]:
    """The answers of `snapshots`, in no order: the numbers of some questions, and their states. Every question is
    answered once. Without `lists` there are none in the states (LogLists has them)."""
    fold = Fold(layout, lists=lists)
    ticks = times // HOUR_MS * HOUR_MS if clocks is None else clocks
    for asked, states in _answered(fold, log, rows, times):
        fold.advance(states, 0, ticks[asked], np.zeros(len(states), dtype=np.int64))
        yield asked, states


def _answered(fold: Fold, log: SideLog, rows: Ints, times: Ints) -> Iterator[tuple[Places, Ints]]:
    waiting: list[tuple[Places, Ints]] = []
    for found in _rounds(fold, log, rows, times):
        waiting.append(found)
        if sum(len(asked) for asked, _ in waiting) >= ANSWERS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[Places, Ints]]) -> tuple[Places, Ints]:
    return np.concatenate([asked for asked, _ in parts]), np.concatenate([states for _, states in parts])


def _rounds(fold: Fold, log: SideLog, rows: Ints, times: Ints) -> Iterator[tuple[Places, Ints]]:
    width = fold.layout.width
    for start in range(0, len(nobody := np.flatnonzero(rows < 0)), ANSWERS):
        part = nobody[start : start + ANSWERS]
        yield part, np.zeros((len(part), width), dtype=np.int64)
    moments = _Moments.of(log, rows, times)
    for entities in moments.groups():
        state = np.zeros((len(entities), width), dtype=np.int64)
        pending = np.zeros(len(entities), dtype=np.int64)
        counts = moments.starts[entities + 1] - moments.starts[entities]
        done = log.starts[entities]  # the entry up to which each is folded
        for number in range(int(counts.max(initial=0))):
            here = np.flatnonzero(counts > number)
            moment = moments.starts[entities[here]] + number
            until = log.starts[entities[here]] + moments.seen[moment]
            _fold(fold, log, _ranges(done[here], until), np.repeat(here, until - done[here]), state, pending)
            done[here] = until
            first, last = moments.asked[moment], moments.asked[moment + 1]
            for start in range(0, len(places := _ranges(first, last)), ANSWERS):
                at = slice(start, start + ANSWERS)
                yield moments.questions[places[at]], state[np.repeat(here, last - first)[at]]


@dataclass(frozen=True)
class _Moments:
    """The different moments that are asked about, by entity and time: entity e has those from `starts[e]` to before
    `starts[e + 1]`. Moment m sees `seen[m]` entries of its entity, and is asked about by `questions[asked[m] :
    asked[m + 1]]`."""

    starts: Ints
    seen: Ints
    asked: Ints
    questions: Places

    @classmethod
    def of(cls, log: SideLog, rows: Ints, times: Ints) -> _Moments:
        known = np.flatnonzero(rows >= 0)
        seen = entries_before(log.entity, log.time, rows[known], times[known]) - log.starts[rows[known]]
        order = np.lexsort((seen, rows[known]))
        questions, of, seen = known[order], rows[known][order], seen[order]
        new = np.ones(len(of), dtype=bool)
        new[1:] = (of[1:] != of[:-1]) | (seen[1:] != seen[:-1])
        first = np.flatnonzero(new)
        starts = np.searchsorted(of[first], np.arange(len(log.entities) + 1))
        return cls(starts, seen[first], np.append(first, len(of)), questions)

    def groups(self) -> Iterator[Places]:
        """Entities that are asked about, some at a time, those with the most moments first."""
        counts = np.diff(self.starts)
        order = np.argsort(-counts, kind="stable")
        order = order[: int((counts > 0).sum())]
        for start in range(0, len(order), ENTITIES):
            yield order[start : start + ENTITIES]


def entries_before(entity: Ints, time: Ints, rows: Ints, times: Ints) -> Ints:
    """int64 [m]: of entries sorted by (`entity`, `time`), int64 [n], the place of the first that is not strictly before
    `times` int64 [m] of entity `rows` int64 [m]."""
    # (entity, time) pairs as one sortable number each: dense ranks of all times, then entity-major.
    moments = np.unique(time)
    span = len(moments) + 1
    entries = entity * span + np.searchsorted(moments, time)
    return np.searchsorted(entries, rows * span + np.searchsorted(moments, times))


def _ranges(first: Ints, last: Ints) -> Places:
    """The numbers of [first[i], last[i]), one range behind the other."""
    lengths = last - first
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + lengths, lengths)


def _fold(fold: Fold, log: SideLog, entries: Places, at: Ints, state: Ints, pending: Ints) -> None:
    source = log.source[entries]
    acts = source >= 0
    if acts.any():
        fold.behaviours(state, at[acts], log.behaviours.take(source[acts]), 0, pending)
    if not acts.all():
        fold.updates(state, at[~acts], log.updates.take(-1 - source[~acts]), pending)
