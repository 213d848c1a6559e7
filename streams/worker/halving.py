"""Which record of a batch a broker refuses: batches of half the size until it is alone.

A transaction is refused as a whole. Read again in halves, the innocent records go through, and what is left is one
record whose outcome cannot be written: that one leaves its coordinates, length and hash in the dead letters, and none
of its content.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from forebay.errors import EventError, RecordRefused, TopicMismatch
from forebay.streams.deadletters import DeadLetter
from forebay.streams.worker.batch import Outcome

log = logging.getLogger("forebay.halving")
Place = tuple[int, int]  # source partition, offset


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
            raise TopicMismatch(
                f"a topic takes not even the smallest record: {error.what}",
                where=error.where,
                do="Raise max.message.bytes of the vectors, item-updates and dead-letters topics to 1000000 or more",
            )
        if place is not None:
            log.warning("%s: the record at %d, offset %d goes without its content", error.what, *place)
            self._bare.add(place)
        self.limit = max(1, min(self.limit, outcome.events) // 2)
        for partition, offset in outcome.offsets.items():
            self._until[partition] = max(offset, self._until.get(partition, 0))

    def prepared(self, outcome: Outcome, topic: str, side: str) -> Outcome:
        """`outcome` as it is to be written: without content where it is that of a record that was refused alone."""
        place = _alone(outcome)
        return without_content(outcome, topic, side, place) if place in self._bare and place is not None else outcome

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


def _alone(outcome: Outcome) -> Place | None:
    if outcome.events != 1 or len(outcome.offsets) != 1:
        return None
    ((partition, offset),) = outcome.offsets.items()
    return partition, offset - 1


def without_content(outcome: Outcome, topic: str, side: str, place: Place) -> Outcome:
    """The outcome of one record with its key, value and interaction left out, and a dead letter that says so.

    State and vectors stay: the fold of an accepted event must not depend on what a broker takes.
    """
    partition, offset = place
    letters = [dataclasses.replace(letter, key=None, value=None) for letter in outcome.dead_letters]
    if not letters:
        refused = EventError("refused", "the broker refuses what this event becomes")
        letters.append(
            DeadLetter.of(
                refused, key=None, value=None, topic=topic, partition=partition, offset=offset,
                append_time=outcome.watermarks.get(partition, 0), processor=side,
            )
        )  # fmt: skip
    return dataclasses.replace(outcome, interactions=[], dead_letters=letters)
