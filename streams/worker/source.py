"""One partition that a worker may read."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """`topic_id` is another one after the topic was deleted and made again."""

    topic: str
    partition: int
    topic_id: str

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"
