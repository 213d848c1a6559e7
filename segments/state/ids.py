"""Ids are UTF-8 strings outside and 64-bit hashes inside: xxh3, as a signed int64, the same on every machine and
version. A batch of them is one buffer with its places: no Python string for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_64_intdigest

from forebay.arrays import Bools, Bytes, Ints, Places
from forebay.segments.state.hashing import find_texts, hashes_of

_SIGN = 1 << 63


@dataclass(frozen=True)
class Ids:
    """n ids. `data` uint8 [bytes] has them in UTF-8: id i lies from `starts[i]` to `ends[i]`, both int64 [n]. `hashes`
    int64 [n]. Parts share their whole's buffer."""

    data: Bytes
    starts: Ints
    ends: Ints
    hashes: Ints

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, ids: Sequence[str]) -> Ids:
        """From strings. A lone surrogate raises UnicodeEncodeError: check ids where they come in."""
        return cls.of_buffer(*texts_of(ids))

    @classmethod
    def of_bytes(cls, ids: Sequence[bytes]) -> Ids:
        """From strings in UTF-8."""
        return cls.of_buffer(*_joined(ids))

    @classmethod
    def of_buffer(cls, data: Bytes, starts: Ints, ends: Ints) -> Ids:
        """From places in a buffer, which is not copied."""
        return cls(data, starts, ends, hashes_of(data, starts, ends))

    def take(self, index: Places | Ints | Bools | slice) -> Ids:
        """Those at `index`, in that order."""
        return Ids(self.data, self.starts[index], self.ends[index], self.hashes[index])

    def to_bytes(self) -> list[bytes]:
        """Each id in UTF-8."""
        view = self.data.data
        return [bytes(view[a:b]) for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def to_strings(self) -> list[str]:
        """Each id as a string."""
        return [name.decode() for name in self.to_bytes()]


def texts_of(texts: Sequence[str]) -> tuple[Bytes, Ints, Ints]:
    """`texts` in UTF-8: a buffer uint8 [bytes], and where each of them starts and ends in it, int64 [n]. A lone
    surrogate raises UnicodeEncodeError."""
    data = np.frombuffer("\0".join(texts).encode(), np.uint8)  # one call for all, and no object for each
    starts, ends = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
    if find_texts(data, starts, ends) == len(texts):
        return data, starts, ends
    return _joined(list(map(str.encode, texts)))  # one of them has such a character in it


def _joined(texts: Sequence[bytes]) -> tuple[Bytes, Ints, Ints]:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths)
    return np.frombuffer(b"".join(texts), np.uint8), ends - lengths, ends


def hash_id(entity: str) -> int:
    """The signed 64-bit hash of `entity`. A lone surrogate raises UnicodeEncodeError: check ids where they come in."""
    digest: int = xxh3_64_intdigest(entity.encode())
    return digest - (1 << 64) if digest >= _SIGN else digest


def hash_ids(entities: Sequence[str]) -> Ints:
    """int64 [n]: `hash_id` of each, 0.1 µs apiece."""
    return Ids.of(entities).hashes
