"""A synthetic world: users with planted interests meet items in sessions, and the click probability of each impression
is known.

Why its clicks can be predicted better by fresh vectors than by nightly ones: a session has an intent, a topic that the
user did not have before, and the clicks of the first minutes tell it. Long-term favourites drift, and users and items
are born inside the window.

Every impression is drawn from (seed, its place in the log) alone, in chunks of 16,384, so that a log of any length
needs the memory of its users, its items and one chunk. The same options give the same events with one version of numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Doubles, Floats, Ints
from forebay.clock import DAY_MS, MINUTE_MS
from forebay.segments.datasets.worldoptions import WorldOptions

COUNTRIES = ("at", "ch", "de", "fr", "it")
MIDDLE_AGE = 40  # with the country it makes the cohort: ten of them, each with tastes of its own
CHUNK_EVENTS = (
    16_384  # impressions drawn together: numpy's cost for a call is spread, and one chunk stays within the cache
)
NEVER = 1 << 62
NEVER_IN_WINDOW = 1 << 44  # ms: 557 years


@dataclass(frozen=True)
class Impressions:
    """n impressions in order of time, numbered from 0 through the log: `numbers`, `times` (ms since 1970), `users`,
    `items` int64 [n], `clicked` bool [n] and its true `probability` float32 [n]. Later ones of the log have times of
    `until_ms` or more."""

    numbers: Ints
    times: Ints
    users: Ints
    items: Ints
    clicked: Bools
    probability: Floats
    until_ms: int

    def __len__(self) -> int:
        return len(self.times)

    def part(self, start: int, end: int) -> Impressions:
        """Those at places start <= place < end."""
        at = slice(start, end)
        until_ms = self.until_ms if end >= len(self) else int(self.times[end])
        return Impressions(
            self.numbers[at], self.times[at], self.users[at], self.items[at], self.clicked[at], self.probability[at],
            until_ms,
        )  # fmt: skip


class World:
    """The tables of a world, O(users + items + minutes), and its impressions, one chunk at a time.

    Times within are ms since `start_ms`. Users are in order of birth; items in order of topic, then birth.
    `user_birth_ms` int64 [users] and `item_birth_ms` int64 [items] are 0 for what was there before. `favourites` int64
    [users, 2 phases, 2] are topics, and a user changes from the first phase to the second at `drift_ms` int64 [users].
    """

    def __init__(self, options: WorldOptions) -> None:
        self.options = o = options
        random = self.random(0)
        self._set_clock(random)
        self.trending = random.integers(0, o.topics, int(o.days) + 1)
        self.cohort_taste = random.normal(size=(2 * len(COUNTRIES), o.topics))

        self.user_birth_ms, self._user_place = self._births(random, o.users, o.users_born_share, 1)
        self._user_weight = _from_zero(_zipf(random, o.users, o.user_zipf_exponent))
        self.country = random.integers(0, len(COUNTRIES), o.users)
        self.age = random.integers(16, 80, o.users)
        self.favourites = random.integers(0, o.topics, (o.users, 2, 2))
        drifts = random.random(o.users) < o.drift_share
        self.drift_ms = np.where(drifts, (random.random(o.users) * o.days * DAY_MS).astype(np.int64), NEVER)

        births, _ = self._births(random, o.items, o.items_born_share, o.topics)
        # The first of each topic was there before the window: no topic is ever empty.
        topics = np.concatenate([np.arange(o.topics), random.integers(0, o.topics, o.items - o.topics)])
        order = np.lexsort((births, topics))
        self.item_birth_ms, self.topic = births[order], topics[order]
        second = random.integers(0, o.topics, o.items)
        self.second_topic = np.where(random.random(o.items) < 0.5, second, self.topic)  # half have one topic
        self.length_min = np.round(random.lognormal(3.0, 0.7, o.items), 1)
        # Half of the quality can be read off an attribute; the other half only from how the item does.
        seen = (np.log(self.length_min) - 3.0) / 0.7
        self.quality = (random.normal(size=o.items) - seen) / 2**0.5
        weight = _zipf(random, o.items, o.item_zipf_exponent)
        self._item_weight = _from_zero(weight)
        self._topic_first = np.searchsorted(self.topic, np.arange(o.topics))
        self._topic_share = np.cumsum(np.bincount(self.topic, weight, o.topics))
        self._topic_and_birth = self.topic * NEVER_IN_WINDOW + self.item_birth_ms

    def random(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each place in the log: nothing depends on how much was drawn before."""
        return np.random.default_rng([self.options.seed, *stream])

    def in_burst(self, times: Ints) -> Bools:
        """Which of `times` int64 [n] (ms since 1970) are in a burst; bool [n]."""
        since = times - self.options.start_ms
        day = np.clip(since // DAY_MS, 0, len(self.burst_ms) - 1)
        return (since >= self.burst_ms[day]) & (since < self.burst_ms[day] + self.options.burst_minutes * MINUTE_MS)

    def blocks(self, size: int) -> Iterator[Impressions]:
        """The log in blocks of at most `size`."""
        for chunk in self.chunks():
            for start in range(0, len(chunk), size):
                yield chunk.part(start, start + size)

    def chunks(self) -> Iterator[Impressions]:
        """The log in blocks as it is drawn. Sessions that go on after their chunk wait here: as many as are open at one
        time."""
        total, numbered = self.options.events, 0
        waiting: tuple[npt.NDArray[np.generic], ...] = ()
        for chunk, low in enumerate(range(0, total, CHUNK_EVENTS)):
            high = min(low + CHUNK_EVENTS, total)
            drawn = self._chunk(chunk, low, high)
            columns = tuple(np.concatenate(pair) for pair in zip(waiting, drawn, strict=True)) if waiting else drawn
            order = np.argsort(columns[0], kind="stable")
            until = int(self._time_at(np.array([high]))[0]) if high < total else int(self.options.days * DAY_MS)
            ready = int(np.searchsorted(columns[0], until, sorter=order))
            times, users, items, clicked, probability = (c[order[:ready]] for c in columns)
            waiting = tuple(c[order[ready:]] for c in columns)
            yield Impressions(
                numbers=np.arange(numbered, numbered + ready),
                times=times + self.options.start_ms,  # type: ignore[arg-type, operator]
                users=users,  # type: ignore[arg-type]
                items=items,  # type: ignore[arg-type]
                clicked=clicked,  # type: ignore[arg-type]
                probability=probability,  # type: ignore[arg-type]
                until_ms=until + self.options.start_ms,
            )
            numbered += ready

    def _chunk(self, chunk: int, low: int, high: int) -> tuple[npt.NDArray[np.generic], ...]:
        """The impressions of the sessions that begin at places low <= place < high of the log: columns of high -
        low."""
        o, count = self.options, high - low
        random = self.random(1, chunk)
        lengths = np.minimum(random.geometric(1 / o.session_mean_impressions, count), o.session_max_impressions)
        sessions = int(np.searchsorted(np.cumsum(lengths), count)) + 1
        lengths = lengths[:sessions]
        lengths[-1] -= lengths.sum() - count

        begins, users = self._sessions(random, low, high, sessions)
        phase = (begins >= self.drift_ms[users]).astype(np.int64)
        favourite = self.favourites[users, phase, random.integers(0, 2, sessions)]
        kind = random.random(sessions)
        trend = self.trending[begins // DAY_MS]
        intent = np.where(kind < o.trending_share, trend, random.integers(0, o.topics, sessions))
        intent = np.where(kind >= o.trending_share + o.random_share, favourite, intent)

        session = np.repeat(np.arange(sessions), lengths)
        passed = np.cumsum(random.uniform(o.gap_min_s, o.gap_max_s, count) * 1000)
        before = np.concatenate([[0.0], passed])[np.cumsum(lengths) - lengths]
        times = begins[session] + (passed - before[session]).astype(np.int64)
        user, wanted, liked = users[session], intent[session], favourite[session]

        any_topic = np.searchsorted(self._topic_share, random.random(count) * self._topic_share[-1], "right")
        how = random.random(count)
        shown = np.where(how < o.shown_intent_share + o.shown_taste_share, liked, any_topic)
        items = self._pick_item(np.where(how < o.shown_intent_share, wanted, shown), times, random.random(count))

        favourites = self.favourites[user, phase[session]]
        cohort = self.country[user] * 2 + (self.age[user] >= MIDDLE_AGE)
        logit = (
            o.bias
            + o.intent_weight * self._match(items, wanted)
            + o.taste_weight * (self._match(items, favourites[:, 0]) + self._match(items, favourites[:, 1]))
            + o.cohort_weight * self.cohort_taste[cohort, self.topic[items]]
            + o.quality_weight * self.quality[items]
        )
        probability = 1 / (1 + np.exp(-logit))
        return times, user, items, random.random(count) < probability, probability.astype(np.float32)

    def _sessions(self, random: np.random.Generator, low: int, high: int, sessions: int) -> tuple[Ints, Ints]:
        """When each session begins and whose it is, int64 [sessions]: one for each user born here, then by activity."""
        # Those at place 0 were there before the window.
        first = np.searchsorted(self._user_place, low, "left" if low else "right")
        last = np.searchsorted(self._user_place, high)
        born = random.permutation(np.arange(first, last))[:sessions]
        begins = self._time_at(low + random.random(sessions - len(born)) * (high - low))
        known = np.searchsorted(self.user_birth_ms, begins, "right")
        users = np.searchsorted(self._user_weight, random.random(len(begins)) * self._user_weight[known], "right") - 1
        return np.concatenate([self.user_birth_ms[born], begins]), np.concatenate([born, np.minimum(users, known - 1)])

    def _pick_item(self, topics: Ints, times: Ints, uniform: Doubles) -> Ints:
        """Of each topic, by popularity among those born at each time; int64 [n]."""
        low = self._topic_first[topics]
        high = np.searchsorted(self._topic_and_birth, topics * NEVER_IN_WINDOW + times)
        weight = self._item_weight
        found = np.searchsorted(weight, weight[low] + uniform * (weight[high] - weight[low]), "right") - 1
        return np.clip(found, low, high - 1)

    def _match(self, items: Ints, topics: Ints) -> Doubles:
        """1 where an item's first topic is `topics`, .5 where only its second is."""
        return np.where(self.topic[items] == topics, 1.0, 0.5 * (self.second_topic[items] == topics))

    def _set_clock(self, random: np.random.Generator) -> None:
        o = self.options
        # The last session must end inside the window: none begins in the time that the longest takes.
        span = o.days * DAY_MS - o.longest_session_ms
        length = min(o.burst_minutes * MINUTE_MS, span / 2)
        days = np.arange(int(np.ceil(span / DAY_MS))) * DAY_MS
        room = np.minimum(days + DAY_MS, span) - days - length
        self.burst_ms: Ints = (days + random.random(len(days)) * np.maximum(room, 0)).astype(np.int64)
        self._minutes: Doubles = np.linspace(0.0, span, int(span // MINUTE_MS) + 1)
        middle = (self._minutes[:-1] + self._minutes[1:]) / 2
        rate = 1 - o.daily_swing * np.cos(2 * np.pi * middle / DAY_MS)
        rate[self.in_burst(middle.astype(np.int64) + o.start_ms)] *= o.burst_factor
        done = _from_zero(rate)
        self._places: Doubles = done * (o.events / done[-1])

    def _time_at(self, places: npt.NDArray[np.generic]) -> Ints:
        """When the log is at `places` [n], ms int64 [n]."""
        return np.interp(places.astype(np.float64), self._places, self._minutes).astype(np.int64)

    def _births(self, random: np.random.Generator, count: int, share: float, founders: int) -> tuple[Ints, Doubles]:
        """Times (ms) and places in the log, in order; at least `founders` of `count` at 0."""
        born = min(round(count * share), count - founders)
        places = np.sort(np.concatenate([np.zeros(count - born), random.random(born) * self.options.events]))
        return self._time_at(places), places


def _zipf(random: np.random.Generator, count: int, exponent: float) -> Doubles:
    return random.permutation(np.arange(1, count + 1) ** -exponent)


def _from_zero(weights: Doubles) -> Doubles:
    """Sums of the first 0, 1, … n weights; float64 [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(weights)])
