"""Retrieval, as it is asked for: at a moment a user chose an item, out of all that there were and that they had not had
yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Floats, Ints
from forebay.clock import DAY_MS
from forebay.segments.history.examples import Examples
from forebay.segments.history.replay import snapshots
from forebay.segments.history.sidelog import SideLog
from forebay.segments.state.layout import Layout


@dataclass(frozen=True)
class Choices:
    """m liked impressions. `places` int64 [m] are their numbers among all examples, `users` and `targets` int64 [m] row
    numbers in the logs, `times` int64 [m] (ms); `seen` bool [m, items]: what the user had rated before, no candidate
    any more. Items are as they were at the last midnight (UTC): number `day` of `midnights` (ms)."""

    logs_item: SideLog
    places: Ints
    users: Ints
    targets: Ints
    times: Ints
    seen: Bools
    day: Ints
    midnights: Ints

    def __len__(self) -> int:
        return len(self.places)

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return len(self.logs_item.entities)

    @classmethod
    def of(cls, examples: Examples, since: int, until: int, count: int, seed: int) -> Choices:
        """At most `count` of the liked impressions with since <= time and a label known before `until` (ms), drawn by
        `seed`, in order of time.

        `examples` is the whole log: what a user had rated is read off it. An item that comes twice is a target again,
        and a candidate whenever it is the target.
        """
        within = np.flatnonzero((examples.times >= since) & (examples.settled < until) & examples.labels)
        places = np.sort(np.random.default_rng(seed).choice(within, min(count, len(within)), replace=False))
        users, targets, times = examples.users[places], examples.items[places], examples.times[places]
        seen = np.zeros((len(places), len(examples.logs["item"].entities)), dtype=np.bool_)
        order = np.argsort(examples.users, kind="stable")
        bounds = np.searchsorted(examples.users[order], np.arange(len(examples.logs["user"].entities) + 1))
        for row, (user, time) in enumerate(zip(users.tolist(), times.tolist(), strict=True)):
            own = order[bounds[user] : bounds[user + 1]]
            seen[row, examples.items[own[examples.times[own] < time]]] = True
        seen[np.arange(len(places)), targets] = False
        midnights, day = np.unique(times // DAY_MS * DAY_MS, return_inverse=True)
        return cls(examples.logs["item"], places, users, targets, times, seen, day, midnights)

    def catalogues(self, layout: Layout) -> Iterator[Ints]:
        """State int64 [items, width] of all items at each of `midnights`."""
        everything = np.arange(self.items)
        for midnight in self.midnights.tolist():
            yield snapshots(layout, self.logs_item, everything, np.full(self.items, midnight))

    def ranks(self, scores: Floats) -> Ints:
        """int64 [m]: the target's place, from 1, among the candidates by `scores` float32 [m, items]. Ties count
        against the model: one that gives every item the same score finds nothing."""
        own = scores[np.arange(len(scores)), self.targets]
        better = (scores >= own[:, None]) & ~self.seen
        return better.sum(axis=1)

    def ranked(self, scores: Floats, k: int) -> Ints:
        """int64 [m, k]: the candidates with the highest scores, best first."""
        open_scores = np.where(self.seen, -np.inf, scores)
        return np.argsort(-open_scores, axis=1, kind="stable")[:, :k]

    def best(self, scores: Floats, k: int) -> Ints:
        """int64 [m, k]: the items that would be shown."""
        open_scores = np.where(self.seen, -np.inf, scores)
        return np.argpartition(-open_scores, k - 1, axis=1)[:, :k]
