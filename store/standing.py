"""What a replica says of itself to the processes that answer from its tables: one word, written twice a second."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """`said_ms` is when (ms). `caught_up`: it has reached the ends of the log since its start. `complete`: it, or one
    before it, has done so since the tables were made, so that what is not in them was not in the log then."""

    said_ms: int = 0
    caught_up: bool = False
    complete: bool = False

    @property
    def word(self) -> int:
        """As 64 bits."""
        return self.said_ms << 2 | self.complete << 1 | self.caught_up

    @classmethod
    def of(cls, word: int) -> Standing:
        return cls(word >> 2, bool(word & 1), bool(word & 2))
