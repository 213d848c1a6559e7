"""Which keys stay in a bounded table: those that are asked for often, and for a while those that came last.

A key that is asked for and is not here comes into a window of a hundredth of the places. What leaves the window stays
only if it was asked for more often lately than the least asked for of SAMPLE keys of the main part, taken by chance;
one of the two goes. So a pass over keys that nobody asks for again moves nothing but the window. It is the admission of
W-TinyLFU with a sampled main part, which needs no list through all keys; its hit rate beside LRU and the optimum is
printed by benchmarks/serving/users.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forebay.arrays import Bools, Ints
from forebay.store.kernels import _kernel
from forebay.store.sketch import SAMPLES, Counts, count_all, counts_for, estimate

SAMPLE = 8
FREE, WINDOW, MAIN = np.uint8(0), np.uint8(1), np.uint8(2)
_PART = 100  # places for each of the window


class Places(NamedTuple):
    """For kernels: `keys` int64 and `parts` uint8 [capacity] by place, `cells` int32 the places by hash, `free` int32 a
    stack of places, `window` int32 [size] a ring of places with their `window_keys`, `state` int64: places in use, the
    ring's first and its length, and the random number."""

    keys: Ints
    parts: npt.NDArray[np.uint8]
    cells: npt.NDArray[np.int32]
    free: npt.NDArray[np.int32]
    window: npt.NDArray[np.int32]
    window_keys: Ints
    state: Ints


class HotSet:
    """At most `capacity` keys, int64 hashes. Not safe to call from several threads at once."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._counts: Counts = counts_for(capacity)
        self._since, self._sample = np.zeros(1, np.int64), SAMPLES * capacity
        ring = max(1, capacity // _PART)
        self._places = Places(
            np.zeros(capacity, np.int64),
            np.zeros(capacity, np.uint8),
            np.full(1 << max(5, (4 * capacity - 1).bit_length()), -1, np.int32),
            np.arange(capacity - 1, -1, -1, dtype=np.int32),
            np.zeros(ring, np.int32),
            np.zeros(ring, np.int64),
            np.array([0, 0, 0, 88172645463325252], np.int64),
        )

    def __len__(self) -> int:
        """Keys that are here."""
        return int(self._places.state[0])

    def count(self, keys: Ints) -> None:
        """Each of `keys` int64 [n] was asked for once, whether it is here or not."""
        count_all(self._counts, self._since, self._sample, keys)

    def counts(self, keys: Ints) -> npt.NDArray[np.uint8]:
        """uint8 [n]: how often each was asked for lately, about."""
        found = np.empty(len(keys), np.uint8)
        _estimates(self._counts, keys, found)
        return found

    def holds(self, keys: Ints) -> Bools:
        """bool [n]: which are here."""
        found = np.empty(len(keys), np.bool_)
        _held(self._places, keys, found)
        return found

    def offer(self, keys: Ints) -> Ints:
        """Take in each of `keys` that is not here, in their order; returns the keys that had to go for it, one of
        `keys` perhaps among them."""
        gone = np.empty(len(keys), np.int64)
        return gone[: _offer(self._counts, self._places, keys, gone)]

    def remove(self, keys: Ints) -> None:
        """Those of `keys` that are here leave."""
        _remove(self._places, keys)

    def keys(self) -> Ints:
        """int64: all that are here."""
        return self._places.keys[self._places.parts != FREE]

    def warm(self) -> None:
        """Compile what this runs, on a set of its own: seconds without numba's cache."""
        twin, keys = HotSet(2), np.arange(4, dtype=np.int64)
        twin.count(keys)
        twin.offer(keys)
        twin.remove(keys[twin.holds(keys)])
        twin.counts(keys)

    def restore(self, keys: Ints, counts: npt.NDArray[np.uint8]) -> None:
        """Count `keys` as often as they were, and take in those that there is room for."""
        self.count(np.repeat(keys, counts))
        room = self.capacity - len(self)
        self.offer(keys[~self.holds(keys)][:room])


@_kernel
def _estimates(counts: Counts, keys: Ints, found: npt.NDArray[np.uint8]) -> None:
    for i in range(len(keys)):
        found[i] = estimate(counts, keys[i])


@_kernel
def _cell(places: Places, key: Any) -> Any:
    """The cell that has the place of `key`, or the free one where it would be."""
    mask = len(places.cells) - 1
    at = key & mask
    while places.cells[at] >= 0 and places.keys[places.cells[at]] != key:
        at = (at + 1) & mask
    return at


@_kernel
def _held(places: Places, keys: Ints, found: Bools) -> None:
    for i in range(len(keys)):
        found[i] = places.cells[_cell(places, keys[i])] >= 0


@_kernel
def _leave(places: Places, place: int) -> None:
    """Free a place. The cells behind its own move up: none is ever dead."""
    mask = len(places.cells) - 1
    hole = _cell(places, places.keys[place])
    at = hole
    while True:
        at = (at + 1) & mask
        other = places.cells[at]
        if other < 0:
            break
        home = places.keys[other] & mask
        if (at - home) & mask >= (at - hole) & mask:
            places.cells[hole] = other
            hole = at
    places.cells[hole] = -1
    places.parts[place] = FREE
    places.state[0] -= 1
    places.free[len(places.free) - 1 - places.state[0]] = place


@_kernel
def _enter(places: Places, key: Any, part: Any) -> Any:
    """Give `key` a free place, and return that."""
    place = places.free[len(places.free) - 1 - places.state[0]]
    places.state[0] += 1
    places.keys[place] = key
    places.parts[place] = part
    places.cells[_cell(places, key)] = place
    return place


@_kernel
def _chance(state: Ints, below: int) -> Any:
    """A number from 0 on: xorshift."""
    x = np.uint64(state[3])
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[3] = np.int64(x)
    return np.int64((x >> np.uint64(33)) % np.uint64(below))


@_kernel
def _least(counts: Counts, places: Places) -> Any:
    """The place of the least asked for of some of the main part; -1 where it has none of them."""
    found, fewest = np.int64(-1), 1 << 30
    for _ in range(SAMPLE):
        place = _chance(places.state, len(places.keys))
        if places.parts[place] == MAIN:
            asked = estimate(counts, places.keys[place])
            if asked < fewest:
                found, fewest = place, asked
    return found


@_kernel
def _offer(counts: Counts, places: Places, keys: Ints, gone: Ints) -> int:
    capacity, ring, count = len(places.keys), len(places.window), 0
    for i in range(len(keys)):
        key = keys[i]
        if places.cells[_cell(places, key)] >= 0:
            continue
        if places.state[0] < capacity - ring:  # room for all that come
            _enter(places, key, MAIN)
            continue
        if places.state[2] == ring:
            oldest, was = places.window[places.state[1]], places.window_keys[places.state[1]]
            places.state[1] = (places.state[1] + 1) % ring
            places.state[2] -= 1
            if places.parts[oldest] == WINDOW and places.keys[oldest] == was:
                least = _least(counts, places)
                if places.state[0] < capacity:  # some have been removed
                    places.parts[oldest] = MAIN
                elif least >= 0 and estimate(counts, places.keys[least]) < estimate(counts, was):
                    gone[count] = places.keys[least]
                    count += 1
                    _leave(places, least)
                    places.parts[oldest] = MAIN
                else:
                    gone[count] = was
                    count += 1
                    _leave(places, oldest)
        if places.state[0] == capacity:  # the ring had one that was removed, and its place is another's
            least = _least(counts, places)
            if least < 0:
                continue
            gone[count] = places.keys[least]
            count += 1
            _leave(places, least)
        at = (places.state[1] + places.state[2]) % ring
        places.window[at], places.window_keys[at] = _enter(places, key, WINDOW), key
        places.state[2] += 1
    return count


@_kernel
def _remove(places: Places, keys: Ints) -> None:
    for i in range(len(keys)):
        place = places.cells[_cell(places, keys[i])]
        if place >= 0:
            _leave(places, place)
