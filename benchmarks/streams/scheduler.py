"""What the scheduler of encoders is worth under a burst: against first come, first served, and against an oracle.

    .venv/bin/python benchmarks/streams/scheduler.py

Users come in sessions. Each of their events makes all segments of theirs wait, and is followed by the next request of
the session, which is answered with what is encoded by then. For 200 seconds three times as much comes as the encoders
can do; before and after it, seven tenths of that. Time is made up, so that the figures are the same on every machine;
the choice is the one that a worker makes (streams/worker/schedule.py).

A request for vectors of age a loses 1 - 2^(-a / 10 minutes) of what freshness is worth, a segment as much of it as it
is worth. The oracle knows when each user asks next: it encodes first what loses most there for each second that it
costs, and what nobody asks for last.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from forebay.arrays import Doubles
from forebay.store.pending import Pending
from forebay.streams.worker.schedule import Schedule, Waiting
from forebay.streams.worker.segmentoptions import SegmentOptions

# Name, cost of a pair in seconds (about those of the built-in spec, measured on a slow core), and worth.
SEGMENTS = (("recent", 4e-6, 3.0), ("next", 4e-6, 3.0), ("taste", 1.5e-6, 2.0), ("profile", 0.7e-6, 0.5))
TURN_S = 0.2  # about a dozen pairs
SLOWER = 4000  # so many times: a second of this world has the load of a quarter of a millisecond of a real worker
USERS, EVENTS_A_SESSION, GAP_S = 200_000, 12, 10.0
HALF_S = 600.0  # half of what freshness is worth is gone after it
BEFORE_S, BURST_S, AFTER_S = 100.0, 200.0, 200.0


@dataclass
class Outcome:
    """What requests lost under one policy, and how old what they were answered with was (s)."""

    losses: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    waiting: int = 0  # pairs at most
    drained_s: float = 0.0  # after the burst, when nothing older than a turn waited


Choose = Callable[["World", Pending, float], Pending]


class World:
    """Users, and what of theirs waits."""

    def __init__(self, seed: int) -> None:
        self.cost = np.array([cost for _, cost, _ in SEGMENTS]) * SLOWER
        self.worth = np.array([worth for *_, worth in SEGMENTS])
        self.schedule = Schedule([name for name, *_ in SEGMENTS], {n: SegmentOptions(w) for n, _, w in SEGMENTS})
        self.schedule.cost_s[:] = self.cost
        self.times, self.users = _events(random.Random(seed), 1 / float(self.cost.sum()))
        count = int(self.users.max()) + 1
        self.masks = np.zeros(count, np.int64)
        self.since = np.zeros((len(SEGMENTS), count))  # s, of each pair that waits
        self.next_at = np.full(count, np.inf)  # when a user asks next: for the oracle alone
        self.last = np.full(count, -np.inf)  # s, of the last event
        self.now_s = 0.0

    def run(self, choose: Choose) -> Outcome:
        """All of it, under one policy."""
        outcome, every, at, all_of = Outcome(), len(self.times), 0, (1 << len(SEGMENTS)) - 1
        follows = _next_of(self.users)
        burst_ends = BEFORE_S + BURST_S
        while at < every or self.masks.any():
            self.now_s += TURN_S
            while at < every and self.times[at] <= self.now_s:
                user, moment = self.users[at], self.times[at]
                self._ask(user, moment, outcome)
                fresh = [s for s in range(len(SEGMENTS)) if not self.masks[user] >> s & 1]
                self.since[fresh, user] = moment
                self.masks[user] = all_of
                self.last[user] = moment
                self.next_at[user] = self.times[follows[at]] if follows[at] >= 0 else np.inf
                at += 1
            rows = np.flatnonzero(self.masks)
            waits = Pending(rows, self.masks[rows])
            outcome.waiting = max(outcome.waiting, int(sum(len(waits.of(s)) for s in range(len(SEGMENTS)))))
            done = choose(self, waits, TURN_S)
            self.masks[done.rows] &= ~done.masks
            if self.now_s > burst_ends and not outcome.drained_s:
                left = np.flatnonzero(self.masks)
                if not any((self.since[s, left[self.masks[left] >> s & 1 == 1]] < self.now_s - 2 * TURN_S).any()
                           for s in range(len(SEGMENTS))):  # fmt: skip
                    outcome.drained_s = self.now_s - burst_ends
        return outcome

    def _ask(self, user: int, moment: float, outcome: Outcome) -> None:
        """The request that the event answers to: it came a moment before it."""
        if np.isinf(self.last[user]):
            return  # nobody had asked for this user before
        waits = (self.masks[user] >> np.arange(len(SEGMENTS)) & 1) == 1
        ages = np.where(waits, moment - self.since[:, user], 0.0)
        loss = 1 - 2 ** (-ages / HALF_S)
        if moment >= BEFORE_S:
            outcome.losses.append(float(loss @ self.worth / self.worth.sum()))
            outcome.ages.append(float(ages.max()))


def ours(world: World, waits: Pending, budget_s: float) -> Pending:
    """A worker's choice."""
    age_ms = ((world.now_s - world.since[:, waits.rows].T) * 1000).astype(np.int64)
    first = np.zeros(len(waits), np.bool_)
    idle_ms = ((world.now_s - world.last[waits.rows]) * 1000).astype(np.int64)
    waiting = Waiting(waits, age_ms, idle_ms, first)
    return world.schedule.choose({0: waiting}, budget_s)[0]


def first_come(world: World, waits: Pending, budget_s: float) -> Pending:
    """The pair that waits for longest."""
    return _greedy(world, waits, budget_s, -world.since[:, waits.rows])


def oracle(world: World, waits: Pending, budget_s: float) -> Pending:
    """What loses most at its user's next request, the sooner the better, for each second that it costs."""
    ahead_s = np.maximum(world.next_at[waits.rows] - world.now_s, TURN_S)
    age_s = world.next_at[waits.rows] - world.since[:, waits.rows]
    loss = np.where(np.isfinite(age_s), 1 - 2 ** (-age_s / HALF_S), 0.0)
    return _greedy(world, waits, budget_s, loss * world.worth[:, None] / world.cost[:, None] / ahead_s)


def _greedy(world: World, waits: Pending, budget_s: float, value: Doubles) -> Pending:
    bits = waits.masks[None, :] >> np.arange(len(SEGMENTS))[:, None] & 1 == 1
    places, at = np.nonzero(bits)
    order = np.argsort(-value[places, at], kind="stable")
    order = order[np.cumsum(world.cost[places[order]]) <= budget_s]
    masks = np.zeros(len(waits), np.int64)
    np.bitwise_or.at(masks, at[order], 1 << places[order])
    return waits.only(masks)


def _events(pick: random.Random, capacity: float) -> tuple[Doubles, np.ndarray]:
    """Times (s) and users, in order of time. `capacity` is how many events a second the encoders can do."""
    heap: list[tuple[float, int]] = []
    moment, end = 0.0, BEFORE_S + BURST_S + AFTER_S
    while moment < end:
        burst = BEFORE_S <= moment < BEFORE_S + BURST_S
        load = capacity * (3.0 if burst else 0.7) / EVENTS_A_SESSION
        moment += pick.expovariate(load)
        user, at = int(USERS * pick.random() ** 3), moment
        for _ in range(1 + int(pick.expovariate(1 / (EVENTS_A_SESSION - 1)))):
            heapq.heappush(heap, (at, user))
            at += pick.expovariate(1 / GAP_S)
    times, users = zip(*(heapq.heappop(heap) for _ in range(len(heap))), strict=True)
    return np.array(times), np.array(users)


def _next_of(users: np.ndarray) -> list[int]:
    """For each event the place of its user's next one, -1 for none."""
    found, last = [-1] * len(users), dict[int, int]()
    for place, user in enumerate(users.tolist()):
        if user in last:
            found[last[user]] = place
        last[user] = place
    return found


POLICIES: Mapping[str, Choose] = {"first come": first_come, "Forebay": ours, "oracle": oracle}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    print(f"{'':>12}  {'lost':>8}  {'against the oracle':>18}  {'age p50':>8}  {'p90':>7}  {'p99':>7}  {'drained':>8}")
    found = {name: [World(seed).run(by) for seed in range(given.seeds)] for name, by in POLICIES.items()}
    least = np.array([np.mean(o.losses) for o in found["oracle"]])
    for name, outcomes in found.items():
        lost = np.array([np.mean(o.losses) for o in outcomes])
        ages = np.concatenate([o.ages for o in outcomes])
        p50, p90, p99 = np.percentile(ages, [50, 90, 99])
        drained = np.median([o.drained_s for o in outcomes])
        against = (lost / least).mean()
        print(
            f"{name:>12}  {lost.mean():>8.3%}  {against:>17.2f}x  {p50:>6.1f} s  {p90:>5.1f} s  {p99:>5.1f} s"
            f"  {drained:>6.0f} s"
        )


if __name__ == "__main__":
    main()
