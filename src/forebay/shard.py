"""Which users a serving node has where one node does not hold them all: those of some partitions of the clean log.

A user's partition is Kafka's murmur2 of its id, as producers and the Intake have it. No numpy: lookup clients, which
ask the node that has the user, import this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from forebay.errors import UsageError

_MASK, _FACTOR = 0xFFFFFFFF, 0x5BD1E995


@dataclass(frozen=True)
class Shard:
    """The `number`-th, from 1 on, `of` so many: every `of`-th partition. `1/1` is all users."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/8`. Raises UsageError."""
        found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"{text!r} is no shard", do="Write it like 2/8: the second of eight")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def partitions(self, count: int) -> list[int]:
        """Those of its own among `count`. Raises UsageError where there are too few for so many shards."""
        if count < self.of:
            raise UsageError(
                f"{count} partitions of users cannot be shared out among {self.of} shards",
                do=f"Use at most {count} shards: the number of partitions is for good",
            )
        return list(range(self.number - 1, count, self.of))

    def owner(self, user: str, partitions: int) -> int:
        """The number of the shard, of as many as there are of this one, that has `user`."""
        return partition_of(user, partitions) % self.of + 1


ALL = Shard()


def partition_of(entity: str, partitions: int) -> int:
    """The partition of an id among `partitions`, as every producer has it."""
    return (_murmur2(entity.encode()) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=1 << 14)
def _murmur2(key: bytes) -> int:
    """2 µs for an id of 12 bytes, and 0.1 for one that was asked for lately."""
    h = (0x9747B28C ^ len(key)) & _MASK
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _FACTOR & _MASK
        h = (h * _FACTOR & _MASK) ^ ((k ^ k >> 24) * _FACTOR & _MASK)
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _FACTOR & _MASK
    h = (h ^ h >> 13) * _FACTOR & _MASK
    return h ^ h >> 15
