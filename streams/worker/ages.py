"""How long what a worker has not committed can have been waiting.

A lag in seconds is the age of the oldest record that is not committed. Its append time is not known before it is read,
but what it cannot be is: the log is in order of append times, so that it is not older than the newest committed record
of its partition; and it is not older than a question about the partition's end, when everything below that end is
committed. The younger of the two is the bound that is kept here. It is exact while records are read, and at most the
time between two questions, a second, too old when a record comes into an idle partition.
"""

from __future__ import annotations

from collections.abc import Mapping


class Ages:
    """By partition, the moment (ms) before which nothing waits. One thread."""

    def __init__(self) -> None:
        self._since: dict[int, int] = {}

    def nothing_before(self, partition: int, moment: int) -> None:
        """What was appended before `moment` (ms) is committed; 0 says nothing."""
        if moment > self._since.get(partition, 0):
            self._since[partition] = moment

    def committed(self, newest: Mapping[int, int]) -> None:
        """Records up to these append times (ms), by partition, are committed."""
        for partition, append_time in newest.items():
            self.nothing_before(partition, append_time)

    def since(self, partition: int) -> int:
        """0 while nothing is known."""
        return self._since.get(partition, 0)

    def forget(self, partition: int) -> None:
        """The partition is another worker's now."""
        self._since.pop(partition, None)
