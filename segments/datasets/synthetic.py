"""The synthetic world as a stream, as a live service would send it: its log in order of arrival. Some events come
twice, some are out of order, a few are late.

Identities (user, time, id) are those of the History (planted.py), so that what a worker keeps of the stream is the
History.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from forebay.arrays import Ints
from forebay.clock import DAY_MS
from forebay.events import Attributes, Behaviour, ItemUpdate, Published, UserProfile
from forebay.segments.datasets.world import COUNTRIES, Impressions, World
from forebay.segments.datasets.worldoptions import WorldOptions

ACTIONS = ("skip", "click")


class Arrival(NamedTuple):
    """An event as it reaches the service at `time_ms` (ms since 1970)."""

    time_ms: int
    in_burst: bool
    event: Published


class Words:
    """Turns the numbers of a world into events. Items have their attributes ready; users are spelled out when they are
    met."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._items = [f"i{n}" for n in range(world.options.items)]
        self._attributes = [self._describe(n) for n in range(world.options.items)]

    def behaviours(self, block: Impressions) -> Iterator[Behaviour]:
        """One event for each impression: `click` of value 1 or `skip` of value 0."""
        columns = (block.users, block.items, block.clicked, block.times, block.numbers)
        for user, item, clicked, time, number in zip(*(c.tolist() for c in columns), strict=True):
            yield Behaviour(
                f"u{user}", self._items[item], ACTIONS[clicked], float(clicked), time, f"e{number}",
                self._attributes[item],
            )  # fmt: skip

    def profile(self, user: int) -> UserProfile:
        world = self._world
        attributes: Attributes = {"age": float(world.age[user]), "country": COUNTRIES[int(world.country[user])]}
        time = world.options.start_ms + int(world.user_birth_ms[user])
        return UserProfile(f"u{user}", attributes, time, "profile")

    def item(self, item: int) -> ItemUpdate:
        time = self._world.options.start_ms + int(self._world.item_birth_ms[item])
        return ItemUpdate(self._items[item], self._attributes[item], time, "item")

    def births(self) -> Iterator[tuple[int, UserProfile | ItemUpdate]]:
        """Each user and each item at the time of its birth, or at start_ms, in order of time; items first."""
        items = np.argsort(self._world.item_birth_ms, kind="stable").tolist()
        streams: tuple[Iterator[UserProfile | ItemUpdate], ...] = (
            map(self.item, items),
            map(self.profile, range(self._world.options.users)),
        )
        for event in heapq.merge(*streams, key=_time):
            yield _time(event), event

    def _describe(self, item: int) -> Attributes:
        topics = sorted({int(self._world.topic[item]), int(self._world.second_topic[item])})
        return {"topics": [f"t{t}" for t in topics], "length": float(self._world.length_min[item])}


def _time(event: UserProfile | ItemUpdate) -> int:
    return event.time or 0


def stream(options: WorldOptions) -> Iterator[Arrival]:
    """The log in order of arrival. What has not arrived yet waits here: the late of an hour, the disorder of a
    minute."""
    world = World(options)
    words = Words(world)
    births = words.births()
    born = next(births, None)
    waiting: list[tuple[int, int, Behaviour]] = []  # arrival, a number of its own, event
    number = 0
    for place, chunk in enumerate(world.chunks()):
        delays, copies = _delays(world, place, len(chunk))
        for event, first, second in zip(words.behaviours(chunk), delays.tolist(), copies.tolist(), strict=True):
            for delay in (first, second):
                if delay >= 0:
                    number += 1
                    waiting.append(((event.time or 0) + delay, number, event))
        waiting.sort(key=lambda row: row[:2])
        ready = sum(1 for row in waiting if row[0] < chunk.until_ms)
        if number and chunk.until_ms >= options.start_ms + options.days * DAY_MS:
            ready = len(waiting)
        bursts = world.in_burst(np.array([row[0] for row in waiting[:ready]], dtype=np.int64)).tolist()
        for (at, _, event), in_burst in zip(waiting[:ready], bursts, strict=True):
            while born is not None and born[0] <= at:
                yield Arrival(born[0], False, born[1])
                born = next(births, None)
            yield Arrival(at, in_burst, event)
        del waiting[:ready]
    while born is not None:
        yield Arrival(born[0], False, born[1])
        born = next(births, None)


def _delays(world: World, chunk: int, count: int) -> tuple[Ints, Ints]:
    """Milliseconds from each event's time to its arrival and to that of its copy, -1 where there is none; int64
    [count]."""
    o, random = world.options, world.random(2, chunk)
    how = random.random(count)
    far = random.random(count)
    delays = np.zeros(count)
    disordered = how < o.disorder_share
    late = (how >= o.disorder_share) & (how < o.disorder_share + o.late_share)
    delays[disordered] = far[disordered] * o.disorder_max_s * 1000
    delays[late] = (o.disorder_max_s + far[late] * (o.late_max_s - o.disorder_max_s)) * 1000
    again = delays + random.random(count) * o.disorder_max_s * 1000
    copies = np.where(random.random(count) < o.duplicate_share, again, -1)
    return delays.astype(np.int64), copies.astype(np.int64)
