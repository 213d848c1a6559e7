"""What goes into a worker's stages, and what comes out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from forebay.streams.deadletters import DeadLetter
from forebay.streams.worker.undeclared import Counts

TICK_KEY = b"\x00tick"  # exempt from the key check: a tick is for its partition, not for an entity
Message: TypeAlias = tuple[int, bytes, bytes | None]  # source partition, key, value (None: a tombstone)


@dataclass(frozen=True)
class PartitionBatch:
    """Records of one source partition in order of offset; `append_times` are the log's (ms)."""

    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    offsets: Sequence[int]
    append_times: Sequence[int]

    def since(self, start: int) -> PartitionBatch:
        """The records from place `start` on."""
        if start == 0:
            return self
        return PartitionBatch(
            self.partition, self.keys[start:], self.values[start:], self.offsets[start:], self.append_times[start:]
        )


@dataclass(frozen=True)
class Outcome:
    """What one batch gives to the log. `watermarks`: for each partition the append time (ms) up to which it is applied;
    `offsets`: the next offset to read."""

    vectors: Sequence[Message] = ()
    interactions: Sequence[tuple[bytes, bytes]] = ()
    dead_letters: Sequence[DeadLetter] = ()
    watermarks: Mapping[int, int] = field(default_factory=dict)
    offsets: Mapping[int, int] = field(default_factory=dict)
    events: int = 0
    accepted: int = 0
    undeclared: Counts = field(default_factory=Counter)
