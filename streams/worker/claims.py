"""What a worker may claim its partitions to be as of.

A transport says now and then: whatever the sources took before this moment lies below that offset. Once everything
below the offset is applied, the moment may be claimed. The claim is never later than what was applied, however the
sources are partitioned.
"""

from __future__ import annotations

from collections import deque

from forebay.streams.worker.transport import End

KEPT = 64  # ends of one partition that are not reached yet: a minute of them


class Claims:
    """The ends that were heard of and not reached, by partition."""

    def __init__(self) -> None:
        self._heard: dict[int, deque[End]] = {}

    def hear(self, partition: int, end: End | None) -> None:
        """Take note of an end. When too many wait, the newest gives way: the next to be reached is the oldest."""
        if end is None or not end.covers_ms:
            return
        waits = self._heard.setdefault(partition, deque())
        if waits and waits[-1] == end:
            return
        if len(waits) == KEPT:
            waits.pop()
        waits.append(end)

    def reached(self, partition: int, offset: int) -> int:
        """The moment (ms) that may be claimed where all below `offset` is applied; 0 for none that is new."""
        waits, moment = self._heard.get(partition), 0
        while waits and waits[0].offset <= offset:
            moment = max(moment, waits.popleft().covers_ms)
        return moment

    def forget(self, partition: int) -> None:
        """The partition is another worker's, or its state is read again."""
        self._heard.pop(partition, None)
