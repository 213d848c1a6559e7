"""Impressions with what was known before each: the rows of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.segments.columns import ColumnCoder
from forebay.segments.history import History
from forebay.segments.layout import Layout
from forebay.segments.replay import SideLog, snapshots
from forebay.segments.spec import Side, Spec

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Examples:
    """`users` and `items` int64 [n] are row numbers in `logs`; `times` int64 [n] (ms); `labels` bool [n]."""

    logs: dict[Side, SideLog]
    users: Ints
    items: Ints
    times: Ints
    labels: Bools

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, spec: Spec, history: History) -> Examples:
        """Every impression of `history`, in order of time."""
        logs: dict[Side, SideLog] = {
            "user": SideLog.of(spec, "user", history.behaviours, history.profiles),
            "item": SideLog.of(spec, "item", history.interactions(), history.items),
        }
        columns = ColumnCoder(spec, "user").behaviours(history.behaviours)
        named = {"action": columns.matrix[:, 1], "value": columns.matrix[:, 2]}
        shown = spec.label.impression(named) if spec.label.impression else np.ones(len(columns), dtype=bool)
        labels = spec.label.positive(named)
        place = np.flatnonzero(shown)
        users = logs["user"].rows_of([history.behaviours[p].user for p in place.tolist()])
        items = logs["item"].rows_of([history.behaviours[p].item for p in place.tolist()])
        return cls(logs, users, items, columns.times[place], labels[place])

    def between(self, start: int, end: int) -> Examples:
        """Those with start <= time < end (ms)."""
        keep = (self.times >= start) & (self.times < end)
        return Examples(self.logs, self.users[keep], self.items[keep], self.times[keep], self.labels[keep])

    def states(self, layout: Layout, as_of: Ints) -> Ints:
        """State rows int64 [n, width] of one side, each from its entity's events strictly before `as_of` int64 [n] (ms)."""
        rows = self.users if layout.side == "user" else self.items
        return snapshots(layout, self.logs[layout.side], rows, as_of)

    def hashes(self, side: Side) -> Ints:
        """Hashed ids int64 [n] of one side's entities."""
        return self.logs[side].hashes[self.users if side == "user" else self.items]
