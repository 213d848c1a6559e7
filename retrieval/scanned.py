"""A request for `rank` out of its msgpack body without a string for each candidate: a compiled kernel finds where they
lie and hashes them there.

The kernel declines whatever is unusual, and then msgspec decides: fields that it does not know or that come twice,
candidates that are not ASCII or longer than 240 bytes, numbers of other types, bytes behind the end. The twin is
`wire.decode`: what is not declined is equal to what it gives, and each error is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import msgspec
import numpy as np
from numba import njit

from forebay.arrays import Bytes, Ints
from forebay.retrieval.messages import RankRequest
from forebay.retrieval.wire import Headers, decode, is_msgpack
from forebay.segments.state.hashing import LONGEST, xxh3

_U = np.uint64
_USER, _CANDIDATES, _K, _GENERATION, _EXPLAIN = (
    np.frombuffer(name, np.uint8) for name in (b"user", b"candidates", b"k", b"generation", b"explain")
)
USER, K, GENERATION, EXPLAIN, SEEN = 0, 2, 3, 5, 6  # places in what the kernel tells; two for each text
# Bits under SEEN: user 1, candidates 2, k 4, generation 8, explain 16.


@dataclass(frozen=True)
class Names(Sequence[str]):
    """Candidates where they lie in a body; each becomes a string when it is asked for."""

    body: bytes
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self.body[self.starts[place] : self.ends[place]].decode()

    def at(self, places: Ints) -> list[str]:
        """Those at `places` int64 [m]: a third of the time of one after another."""
        pairs = zip(self.starts[places].tolist(), self.ends[places].tolist(), strict=True)
        return [self.body[start:end].decode() for start, end in pairs]

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Scanned:
    """A RankRequest whose candidates were hashed where they lie: `hashes` int64 [n]."""

    user: str
    candidates: Names
    k: int
    generation: str | None
    explain: bool
    hashes: Ints
    # What else a RankRequest may ask: the kernel declines a body that asks it.
    filter: str = ""
    boost: Mapping[str, float] = field(default_factory=dict)
    exclude_seen: bool = False
    deny: Sequence[str] = ()
    allow: Sequence[str] | None = None


def rank_request(body: bytes, headers: Headers) -> RankRequest | Scanned:
    """The request in a body, by its content type. Raises BadRequest."""
    found = scanned(body) if is_msgpack(headers) else None
    return decode(body, headers, RankRequest) if found is None else found


def scanned(body: bytes) -> Scanned | None:
    """The request in a msgpack body, or None where msgspec is to decide."""
    told = np.empty(SEEN + 1, np.int64)
    starts, ends, hashes = scan(np.frombuffer(body, np.uint8), told)
    user, end, k, generation, last, explain, seen = told.tolist()
    if seen < 0:
        return None
    try:
        named = None if generation < 0 else body[generation:last].decode()
        return Scanned(body[user:end].decode(), Names(body, starts, ends), k, named, bool(explain), hashes)
    except UnicodeDecodeError:
        return None


def warm() -> None:
    """Compile what a request runs."""
    assert scanned(msgspec.msgpack.encode(RankRequest("u", ["i"]))) is not None


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def text_at(data: Bytes, at: int) -> tuple[int, int]:
    """Where the text at `at` begins and ends; both -1 where there is none, or not all of it."""
    if at >= len(data):
        return -1, -1
    first: Any = np.int64(data[at])
    start, size = at + 1, first & 31
    if 0xA0 <= first <= 0xBF:
        pass
    elif first == 0xD9 and at + 1 < len(data):
        start, size = at + 2, np.int64(data[at + 1])
    elif first == 0xDA and at + 2 < len(data):
        start, size = at + 3, np.int64(data[at + 1]) << 8 | np.int64(data[at + 2])
    else:
        return -1, -1
    return (start, start + size) if start + size <= len(data) else (-1, -1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def number_at(data: Bytes, at: int, size: int) -> int:
    """The big-endian number of `size` bytes at `at`; -1 where they are not all there."""
    if at + size > len(data):
        return -1
    value: Any = 0
    for k in range(size):
        value = value << 8 | np.int64(data[at + k])
    return value


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def same(data: Bytes, start: int, end: int, name: Bytes) -> bool:
    if end - start != len(name):
        return False
    for k in range(len(name)):  # noqa: SIM110 - a kernel
        if data[start + k] != name[k]:
            return False
    return True


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def is_ascii(data: Bytes, start: int, end: int) -> Any:
    bits: Any = np.uint8(0)
    for k in range(_U(start), _U(end)):
        bits |= data[k]
    return bits < 128


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def scan(data: Bytes, told: Ints) -> Any:
    """Starts, ends and hashes int64 [n] of the candidates in `data`, and the other fields in `told` (USER, K …), with
    -1 under SEEN where it is declined."""
    starts, ends, hashes = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    told[:], told[K], told[EXPLAIN] = -1, 50, 0
    if len(data) == 0 or not 0x80 <= data[0] <= 0x8F:
        return starts, ends, hashes
    at, seen = 1, 0
    for _ in range(data[0] & 15):
        start, at = text_at(data, at)
        if at < 0 or at >= len(data):
            return starts, ends, hashes
        first: Any = np.int64(data[at])
        bit = 0
        if same(data, start, at, _USER) or same(data, start, at, _GENERATION):
            bit = 1 if same(data, start, at, _USER) else 8
            if bit == 8 and first == 0xC0:
                at += 1
            else:
                start, at = text_at(data, at)
                if at < 0:
                    return starts, ends, hashes
                place = USER if bit == 1 else GENERATION
                told[place], told[place + 1] = start, at
        elif same(data, start, at, _CANDIDATES):
            bit, count = 2, np.int64(-1)
            if 0x90 <= first <= 0x9F:
                count, at = first & 15, at + 1
            elif first == 0xDC:
                count, at = number_at(data, at + 1, 2), at + 3
            elif first == 0xDD:
                count, at = number_at(data, at + 1, 4), at + 5
            if count < 0 or count > len(data) - at or seen & bit:  # each takes a byte at least
                return starts, ends, hashes
            starts, ends, hashes = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
            for i in range(count):
                start, at = text_at(data, at)
                if at < 0 or at - start > LONGEST or not is_ascii(data, start, at):
                    return starts, ends, hashes
                starts[i], ends[i], hashes[i] = start, at, np.int64(xxh3(data, start, at))
        elif same(data, start, at, _K):
            bit, value = 4, np.int64(-1)
            if first < 0x80:
                value, at = first, at + 1
            elif 0xCC <= first <= 0xCE:
                size = 1 << (first - 0xCC)
                value, at = number_at(data, at + 1, size), at + 1 + size
            if value < 0:
                return starts, ends, hashes
            told[K] = value
        elif same(data, start, at, _EXPLAIN):
            bit, at = 16, at + 1
            if first != 0xC2 and first != 0xC3:
                return starts, ends, hashes
            told[EXPLAIN] = first - 0xC2
        if bit == 0 or seen & bit:
            return starts, ends, hashes
        seen |= bit
    if at == len(data) and seen & 3 == 3:
        told[SEEN] = seen
    return starts, ends, hashes
