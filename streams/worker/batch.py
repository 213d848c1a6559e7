"""What goes into a worker's stage, and what comes out of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from forebay.telemetry import News
from forebay.tracing import Span

Headers: TypeAlias = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """One record on its way. `partition` -1 is the murmur2 partition of the key."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True)
class PartitionBatch:
    """Records of one partition in order of offset; `append_times` are the log's (ms), and `headers` are there where the
    records have some. `partition` is the number that the worker knows it by: see Transport.source."""

    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    offsets: Sequence[int]
    append_times: Sequence[int]
    headers: Sequence[Headers] = ()

    def since(self, start: int) -> PartitionBatch:
        """The records from place `start` on."""
        if start == 0:
            return self
        return PartitionBatch(
            self.partition, self.keys[start:], self.values[start:], self.offsets[start:], self.append_times[start:],
            self.headers[start:],
        )  # fmt: skip

    def headers_at(self, place: int) -> Headers:
        """Those of one record."""
        return self.headers[place] if self.headers else ()


@dataclass(frozen=True)
class Outcome:
    """What one batch gives to the log. `offsets`: the next one to read, for each partition that had records; `told`:
    other partitions that `records` tell of. So many records were `taken`, and so many `events` were in them. `spans`
    end with its commit, and hooks are told `news` after it: what is done again is told once. Where something `waits`,
    the stage would go on with it without another record."""

    records: Sequence[Record] = ()
    offsets: Mapping[int, int] = field(default_factory=dict)
    told: Collection[int] = ()
    taken: int = 0
    events: int = 0
    spans: Sequence[Span] = ()
    news: Sequence[News] = ()
    waits: bool = False
