"""Point-in-time replay: an entity's state as it was before a moment, through the same fold that serves.

Training and evaluation both ask "what was known of this user strictly before this event?" for many events at once. The
log is folded in rounds: round r folds the r-th entry of every entity at once, and a question that may see exactly r
entries of its entity is answered by a copy of the row before that round. The number of rounds is the longest history,
not the log.
"""

from __future__ import annotations

import numpy as np

from forebay.arrays import Ints
from forebay.clock import HOUR_MS
from forebay.segments.history.sidelog import SideLog
from forebay.segments.state.fold import Fold
from forebay.segments.state.layout import Layout


def snapshots(layout: Layout, log: SideLog, rows: Ints, times: Ints, clocks: Ints | None = None) -> Ints:
    """State int64 [m, layout.width] of entities `rows` int64 [m] (-1: none) from their entries strictly before `times`
    int64 [m] (ms). `clocks` int64 [m] is the newest tick of each question; by default the last full hour before it."""
    fold = Fold(layout)
    state = np.zeros((len(log.entities), layout.width), dtype=np.int64)
    pending = np.zeros(len(log.entities), dtype=np.int64)
    out = np.zeros((len(rows), layout.width), dtype=np.int64)
    known = np.flatnonzero(rows >= 0)
    seen = _entries_before(log, rows[known], times[known])
    by_seen = known[np.argsort(seen, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(seen, minlength=1))])
    lengths = np.diff(log.starts)
    for done in range(len(bounds) - 1):
        asked = by_seen[bounds[done] : bounds[done + 1]]
        out[asked] = state[rows[asked]]
        if done + 2 < len(bounds):
            entry = log.source[log.starts[:-1][lengths > done] + done]
            _fold_entries(fold, log, entry, np.flatnonzero(lengths > done), state, pending)
    ticks = times // HOUR_MS * HOUR_MS if clocks is None else clocks
    fold.advance(out, 0, ticks, np.zeros(len(out), dtype=np.int64))
    return out


def _entries_before(log: SideLog, rows: Ints, times: Ints) -> Ints:
    """How many of its entity's entries each question may see: those with a time strictly before its own."""
    # (entity, time) pairs as one sortable number each: dense ranks of all times, then entity-major.
    moments = np.unique(np.concatenate([log.time, times]))
    span = len(moments) + 1
    entries = log.entity * span + np.searchsorted(moments, log.time)
    return np.searchsorted(entries, rows * span + np.searchsorted(moments, times)) - log.starts[rows]


def _fold_entries(fold: Fold, log: SideLog, entry: Ints, at: Ints, state: Ints, pending: Ints) -> None:
    acts = entry >= 0
    if acts.any():
        fold.behaviours(state, at[acts], log.behaviours.take(entry[acts]), 0, pending)
    if not acts.all():
        fold.updates(state, at[~acts], log.updates.take(-1 - entry[~acts]), pending)
