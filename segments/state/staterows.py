"""State rows that several segments read."""

from __future__ import annotations

from dataclasses import dataclass, field

from forebay.arrays import Floats, Ints

# float32 [n, size, width], the items' vocabulary places int64 [n, size], and entries in use int64 [n].
Lists = tuple[Floats, Ints, Ints]


@dataclass(frozen=True)
class StateRows:
    """Rows int64 [n, width] of the entities with the hashed ids int64 [n]. `lists` are those that were read of them, by
    first column and what is read: the next segment that has the same list takes it from there. One thread at a time."""

    rows: Ints
    hashes: Ints
    lists: dict[tuple[int, tuple[str, ...]], Lists] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)
