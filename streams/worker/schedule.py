"""What is encoded next where encoders cannot keep up.

A pair of an entity and a segment that waits costs more, the longer it waits and the sooner its entity is looked up. The
loss grows about in proportion to the age of a vector (half of what freshness is worth is gone after ten minutes), so
that the rule is the one that is known to be best for such costs: first the pair whose loss grows fastest for each
second of the processor that it takes (Van Mieghem's generalized c-mu rule). How soon an entity is looked up is told by
its last event: who acted a moment ago asks for the next page, and what is acted on is shown. The chance is taken to
fall as 1 / (a minute + the time since that event). benchmarks/streams/scheduler.py tells what it is worth.

A row that is told of costs a record, be it for one segment or for all: about as much as a cheap segment. So pairs of a
row go together where that gives more for each second, the record counted once: the most worth for their cost first, as
many as make the quotient greatest, and the others as the next such group (the rule for jobs with a common set-up).

Every pair comes to its turn, since its age has no bound and the chance of a lookup is never taken to be nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Doubles, Ints, Places
from forebay.store.pending import Pending
from forebay.streams.worker.segmentoptions import SegmentOptions

FIRST_GUESS_S = 10e-6  # of a pair, before one was measured
LEARNS = 0.2  # the weight of what was measured last
RECENT_MS = 60_000  # of 10 s, 30 s, 1 min and 5 min this lost least in the benchmark
STEPS = 1 << 14  # of urgency, each 3 % above the last
IDLE_MS = 3_600_000  # an entity that is idle for longer is looked up now and then all the same


@dataclass(frozen=True)
class Waiting:
    """What waits in one partition; of each pair for how long (ms, int64 [rows, segments]); of each row how long its
    entity's last event is past (ms int64), and whether it goes first (bool)."""

    pending: Pending
    age_ms: Ints
    idle_ms: Ints
    first: Bools


class Schedule:
    """Chooses what is encoded in a given time. It learns what a pair of each segment costs."""

    def __init__(self, segments: Sequence[str], options: Mapping[str, SegmentOptions] = {}) -> None:
        """`segments` are names in order of their place. `options` are of some of them."""
        found = [options.get(name, SegmentOptions()) for name in segments]
        self._worth = np.array([o.worth for o in found])
        self._quota = np.array([o.quota for o in found])
        self.cost_s = np.full(len(found), FIRST_GUESS_S)  # of a pair, by segment
        self.row_s = 0.0  # of the record of a row
        self.choice_s = 0.0  # what the last choice took

    def measured(self, place: int, pairs: int, seconds: float) -> None:
        """So many pairs of segment `place` took so long."""
        if pairs:
            self.cost_s[place] += LEARNS * (seconds / pairs - self.cost_s[place])

    def told(self, rows: int, seconds: float) -> None:
        """To tell the log of so many rows took so long."""
        if rows:
            self.row_s += LEARNS * (seconds / rows - self.row_s)

    def chose(self, seconds: float) -> None:
        """The last choice took so long. The next one's budget is no less, so that at least half of the time goes into
        encoding, however much waits."""
        self.choice_s = seconds

    def choose(self, waiting: Mapping[int, Waiting], budget_s: float) -> dict[int, Pending]:
        """What of `waiting`, by partition, is to be encoded in `budget_s`: all, where the time is enough; one pair at
        least. Of pairs whose loss grows equally fast, within 3 %, those of the first rows are taken."""
        masks = [w.pending.masks for w in waiting.values()]
        pairs = np.array([sum(int((m >> s & 1).sum()) for m in masks) for s in range(len(self._worth))])
        budget_s = max(budget_s, self.choice_s)
        if pairs @ self.cost_s + self.row_s * sum(map(len, masks)) <= budget_s:
            return {number: w.pending for number, w in waiting.items()}
        chosen = self._most_urgent(list(waiting.values()), budget_s)
        ends = np.cumsum([len(w.pending) for w in waiting.values()])
        parts = np.split(chosen, ends[:-1])
        return {number: w.pending.only(part) for (number, w), part in zip(waiting.items(), parts, strict=True)}

    def _most_urgent(self, waiting: Sequence[Waiting], budget_s: float) -> Ints:
        """Which pairs are chosen, where time is not enough for all: masks int64 of the rows of all partitions.

        Pairs are counted by step, not sorted: a million rows wait after a tick, and a sort of theirs takes longer than
        a batch may.
        """
        masks = np.concatenate([w.pending.masks for w in waiting])
        age_ms = np.concatenate([w.age_ms for w in waiting])
        idle_ms = np.concatenate([w.idle_ms for w in waiting])
        first = np.concatenate([w.first for w in waiting])
        kinds, kind = np.unique(masks, return_inverse=True)
        groups = [self._grouped(mask) for mask in kinds.tolist()]
        density, cost_s = (np.array(part) for part in zip(*groups, strict=True))  # [kinds, segments]
        at = [np.flatnonzero(masks >> place & 1) for place in range(len(self._worth))]
        steps = []
        for place, rows in enumerate(at):
            urgency = np.where(first[rows], np.inf, urgency_of(age_ms[rows, place], idle_ms[rows]))
            steps.append(_steps(urgency * density[kind[rows], place]))
        # From here on the most urgent step is the first.
        counts = np.stack([np.bincount(found, minlength=STEPS)[::-1] for found in steps])
        costs_s = np.stack([
            np.bincount(found, cost_s[kind[rows], place], minlength=STEPS)[::-1]
            for place, (found, rows) in enumerate(zip(steps, at, strict=True))
        ])  # fmt: skip
        allowed = _first(counts, np.where(self._quota < 1, self._quota * budget_s / self.cost_s, np.inf))
        spent_s = np.cumsum((costs_s * allowed / np.maximum(counts, 1)).sum(axis=0))
        full = int(np.searchsorted(spent_s, budget_s, side="right"))  # so many steps are taken whole
        takes = allowed[:, :full].sum(axis=1)
        if full < STEPS:
            before_s = float(spent_s[full - 1]) if full else 0.0
            share = (budget_s - before_s) / (float(spent_s[full]) - before_s)
            more = np.floor(allowed[:, full] * share).astype(np.int64)  # about the same rows of each segment
            pair_s = costs_s[:, full] / np.maximum(counts[:, full], 1)
            left_s = budget_s - before_s - float(more @ pair_s)
            for place in np.flatnonzero(allowed[:, full] > more).tolist():
                rest = min(int(allowed[place, full] - more[place]), int(left_s / pair_s[place]))
                more[place], left_s = more[place] + rest, left_s - rest * pair_s[place]
            takes += more
        if not takes.any():
            takes[int(np.argmax([found.max(initial=-1) for found in steps]))] = 1
        chosen = np.zeros_like(masks)
        for place, take in enumerate(takes.tolist()):
            chosen[at[place][_highest(steps[place], take)]] |= 1 << place
        return chosen

    def _grouped(self, mask: int) -> tuple[list[float], list[float]]:
        """Of a row that waits for the segments of `mask`: what each of them gives for a second, and what it costs with
        its share of the record (s), by place; 0 where it does not wait."""
        left = [place for place in range(len(self._worth)) if mask >> place & 1]
        left.sort(key=lambda place: self._worth[place] / self.cost_s[place], reverse=True)
        density, cost_s = [0.0] * len(self._worth), [0.0] * len(self._worth)
        while left:
            worth, cost = np.cumsum(self._worth[left]), np.cumsum(self.cost_s[left]) + self.row_s
            most = int(np.argmax(worth / cost))
            group, left = left[: most + 1], left[most + 1 :]
            for place in group:
                density[place] = float(worth[most] / cost[most])
                cost_s[place] = float(self.cost_s[place]) + self.row_s / len(group)
        return density, cost_s


def urgency_of(age_ms: Ints, idle_ms: Ints) -> Doubles:
    """How fast the loss of each pair grows, float64 [n] in a unit of its own: its age times the chance of a lookup. An
    event may be ahead of its log."""
    urgency: Doubles = np.maximum(1, age_ms + 1) / (RECENT_MS + np.clip(idle_ms, 0, IDLE_MS))
    return urgency


def _steps(density: Doubles) -> Places:
    """Numbers below STEPS, in the order of `density`, which is at least 0: the exponent and the first five bits of each
    float32."""
    return (density.astype(np.float32).view(np.int32) >> 18).astype(np.int64)


def _first(counts: Places, most: Doubles) -> Places:
    """`counts` [segments, STEPS] up to `most` [segments] in all of each."""
    before = np.cumsum(counts, axis=1) - counts
    found: Places = np.clip(np.floor(most)[:, None] - before, 0, counts).astype(np.int64)
    return found


def _highest(steps: Places, most: int) -> Places:
    """The places of so many of the highest `steps`."""
    if most >= len(steps):
        return np.arange(len(steps))
    if most == 0:
        return np.zeros(0, np.int64)
    above = np.cumsum(np.bincount(steps, minlength=STEPS)[::-1])
    last = STEPS - 1 - int(np.searchsorted(above, most))  # the step that is not taken whole
    higher, equal = np.flatnonzero(steps > last), np.flatnonzero(steps == last)
    return np.concatenate([higher, equal[: most - len(higher)]])
