"""Impressions with what was known before each: the rows of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.arrays import Bools, Ints
from forebay.segments.history.history import History
from forebay.segments.history.outcomes import conditions, judged
from forebay.segments.history.replay import SideLog, snapshots
from forebay.segments.spec import Side, Spec
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.layout import Layout


@dataclass(frozen=True)
class Examples:
    """`users` and `items` int64 [n] are row numbers in `logs`; `times` int64 [n] (ms), ascending; `labels` bool [n],
    each known `within_ms` after its time. `met` int64 [m] are the times (ms) of all events that meet the label's
    `positive` and are no impression: a label that finds nothing is explained by them."""

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
        logs: dict[Side, SideLog] = {
            "user": SideLog.of(spec, "user", history.behaviours, history.profiles),
            "item": SideLog.of(spec, "item", history.behaviours, history.items),
        }
        columns = ColumnCoder(spec, "user").behaviours(history.behaviours)
        place, labels = judged(spec, history.behaviours, columns, history.until)
        users = logs["user"].rows_of([history.behaviours[p].user for p in place.tolist()])
        items = logs["item"].rows_of([history.behaviours[p].item for p in place.tolist()])
        shown, positive = conditions(spec, columns)
        met = columns.times[positive & ~shown]
        return cls(logs, users, items, columns.times[place], labels, met, spec.label.within_ms or 0)

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
