"""Impressions with what was known before each: the rows of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.segments.history.history import History
from forebay.segments.history.outcomes import conditions, judged
from forebay.segments.history.replay import snapshots
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import SIDES, Side, Spec
from forebay.segments.state.layout import Layout


@dataclass(frozen=True)
class Examples:
    """`users` and `items` int64 [n] are row numbers in `logs`; `times` int64 [n] (ms), ascending, of one time by hashed
    id; `labels` bool [n], each known `within_ms` after its time. `met` int64 [m] are the times (ms) of all events that
    meet the label's `positive` and are no impression: a label that finds nothing is explained by them."""

    logs: dict[Side, SideLog]
    users: Ints
    items: Ints
    times: Ints
    labels: Bools
    met: Ints
    within_ms: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def settled(self) -> Ints:
        """int64 [n] (ms): a label may be known to what is asked strictly after this moment."""
        return self.times + self.within_ms

    @classmethod
    def of(cls, spec: Spec, history: History) -> Examples:
        """Every impression of `history` whose outcome is known, in order of time."""
        logs: dict[Side, SideLog] = {side: SideLog.of(spec, side, history) for side in SIDES}
        acted = logs["user"].behaviours
        place, labels = judged(spec, logs["user"], history.until)
        order = np.lexsort((acted.ids[place], acted.times[place]))
        place, labels = place[order], labels[order]
        users = logs["user"].at[place]
        items = logs["item"].rows_of_hashes(acted.matrix[place, 0])
        shown, positive = conditions(spec, acted)
        met = acted.times[positive & ~shown]
        return cls(logs, users, items, acted.times[place], labels, met, spec.label.within_ms or 0)

    def between(self, start: int, end: int) -> Examples:
        """Those with start <= time (ms) whose labels are known from what is before `end` (ms)."""
        keep = (self.times >= start) & (self.settled < end)
        met = self.met[(self.met >= start) & (self.met < end)]
        return Examples(
            self.logs, self.users[keep], self.items[keep], self.times[keep], self.labels[keep], met, self.within_ms
        )

    def states(self, layout: Layout, as_of: Ints) -> Ints:
        """State rows int64 [n, width] of one side, each from its entity's events strictly before `as_of` int64 [n]
        (ms)."""
        rows = self.users if layout.side == "user" else self.items
        return snapshots(layout, self.logs[layout.side], rows, as_of)

    def hashes(self, side: Side) -> Ints:
        """Hashed ids int64 [n] of one side's entities."""
        return self.logs[side].hashes[self.users if side == "user" else self.items]
