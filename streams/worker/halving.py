"""Which record of a batch a broker refuses: batches of half the size until it is alone.

A transaction is refused as a whole. Read again in halves, the innocent records go through, and what is left is one
record whose outcome cannot be written: its stage says what stands in the log instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from forebay.errors import RecordRefused, TopicMismatch
from forebay.streams.worker.batch import Outcome, PartitionBatch

log = logging.getLogger("forebay.halving")
Place = tuple[int, int]  # partition, offset


class Halving:
    """How many records the next batch may have, and which records go without their content."""

    def __init__(self, most: int) -> None:
        self._most = self.limit = most
        self._until: dict[int, int] = {}  # the limit holds up to these offsets
        self._bare: set[Place] = set()

    def refused(self, outcome: Outcome, error: RecordRefused) -> None:
        """The transaction of `outcome` was refused for its content. Raises TopicMismatch when nothing is left to be
        cut: then it is the topics that take too little, and the same batch would be tried for ever."""
        place = _alone(outcome)
        if not outcome.offsets or place in self._bare:  # heartbeats and ticks are ours, and of one size
            raise too_small(error)
        if place is not None:
            log.warning("%s: the record at %d, offset %d goes without its content", error.what, *place)
            self._bare.add(place)
        self.limit = max(1, min(self.limit, outcome.taken) // 2)
        for partition, offset in outcome.offsets.items():
            self._until[partition] = max(offset, self._until.get(partition, 0))

    def is_bare(self, batches: Sequence[PartitionBatch]) -> bool:
        """Whether this is the one record that was refused alone."""
        if not self._bare or len(batches) != 1 or len(batches[0].offsets) != 1:
            return False
        return (batches[0].partition, batches[0].offsets[0]) in self._bare

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The log has everything below `offsets`: past the refused batch, batches are whole again."""
        for partition, offset in offsets.items():
            if offset >= self._until.get(partition, offset):
                self._until.pop(partition, None)
            self._bare = {(p, o) for p, o in self._bare if p != partition or o >= offset}
        if not self._until:
            self.limit = self._most

    def forget(self, partition: int) -> None:
        """The partition is another worker's now."""
        self._until.pop(partition, None)
        self._bare = {(p, o) for p, o in self._bare if p != partition}
        self.committed({})


def too_small(error: RecordRefused) -> TopicMismatch:
    """For a stage that has nothing to leave out, too."""
    return TopicMismatch(
        f"a topic takes not even the smallest record: {error.what}",
        where=error.where,
        do="Raise max.message.bytes of the events, vectors and dead-letters topics to 1000000 or more",
    )


def _alone(outcome: Outcome) -> Place | None:
    if outcome.taken != 1 or len(outcome.offsets) != 1:
        return None
    ((partition, offset),) = outcome.offsets.items()
    return partition, offset - 1
