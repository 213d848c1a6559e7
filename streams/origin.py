"""Where a record that was driven again was first: four headers of it.

The Intake completes an event without a time or an id by the append time and the place of its record. With these headers
it takes those of the first copy, so that every copy has one identity, and counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_PREFIX = "forebay.origin."
_FIELDS = ("topic", "partition", "offset", "append_time")
_NUMBER = re.compile(rb"[0-9]{1,18}")
_NAMES = frozenset(f"{_PREFIX}{name}" for name in _FIELDS)
_MAX_TOPIC = 249  # bytes, as Kafka has it
_MAX_TIME = 1 << 53  # as of an event's own time


@dataclass(frozen=True)
class Origin:
    """The first copy of a record; `append_time` is that of its log (ms)."""

    topic: str
    partition: int
    offset: int
    append_time: int

    @property
    def source(self) -> str:
        """As the Intake names it: "topic/partition"."""
        return f"{self.topic}/{self.partition}"

    def to_headers(self) -> list[tuple[str, bytes]]:
        """As both Kafka clients take them."""
        return [(f"{_PREFIX}{name}", str(getattr(self, name)).encode()) for name in _FIELDS]

    @classmethod
    def of(cls, headers: Iterable[tuple[str, bytes | None]]) -> Self | None:
        """The origin that `headers` name; None where they name none that can be: a record that anybody may write."""
        found: dict[str, bytes] = {}
        for name, value in headers:
            if is_of_origin(name):
                found.setdefault(name.removeprefix(_PREFIX), value or b"")
        numbers = [found.get(name, b"") for name in _FIELDS[1:]]
        if not 0 < len(found.get("topic", b"")) <= _MAX_TOPIC or not all(map(_NUMBER.fullmatch, numbers)):
            return None
        partition, offset, append_time = map(int, numbers)
        if not 0 < append_time < _MAX_TIME:
            return None
        return cls(found["topic"].decode("utf-8", "replace"), partition, offset, append_time)


def is_of_origin(name: str) -> bool:
    """Whether this is the name of such a header."""
    return name in _NAMES
