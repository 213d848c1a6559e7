"""Which item attributes a behaviour may have that came without any: held against what had landed when it was told."""

from __future__ import annotations

from collections.abc import Iterator

from forebay.events import Behaviour, ItemUpdate
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER
from forebay.streams.topics import Topics
from forebay.streams.transports.memory.log import Group, Member, Write

from ..segments import naive

Name = tuple[str, int | None, str | None]  # user, time, id


class Joins:
    """Hears of every commit of the Intakes, and of every partition that goes on. `bare` are the behaviours that were
    sent without item attributes."""

    def __init__(self, topics: Topics, numbers: dict[str, int]) -> None:
        """`numbers` are those of the source partitions ("topic/partition")."""
        self.bare: set[Name] = set()
        self._topics, self._numbers = topics, numbers
        self._landed: list[tuple[Member, ItemUpdate]] = []
        self._went_on: dict[tuple[Member, int], int] = {}

    def went_on(self, member: Member, partition: int) -> None:
        """All that has landed by now is known to the member when it tells events of the partition."""
        self._went_on[member, partition] = len(self._landed)

    def check(self, intake: Group, write: Write) -> None:
        """Raise AssertionError where `write`, which has just landed, has a behaviour with attributes of no update of
        its item that was accepted, or of an older one than its Intake knew."""
        member = write.member
        if member.group is not intake:
            return
        self._landed += [
            (member, event)
            for block in self._blocks(write, "item")
            for event in events_of(block)
            if isinstance(event, ItemUpdate)
        ]
        for block in self._blocks(write, "user"):
            for event, source in zip(events_of(block), block.numbers("source").tolist(), strict=True):
                if isinstance(event, Behaviour) and (event.user, event.time, event.id) in self.bare:
                    self._check(event, member, self._numbers[block.sources[source]])

    def _check(self, event: Behaviour, member: Member, partition: int) -> None:
        before = self._went_on[member, partition]
        accepted = [(n < before or who is member, u) for n, (who, u) in enumerate(self._landed) if u.item == event.item]
        newest = max((naive.order_of(update) for known, update in accepted if known), default=None)
        may = [update.attributes for _, update in accepted if newest is None or naive.order_of(update) >= newest]
        if newest is None:
            may.append({})
        assert event.item_attributes in may, f"{event} has none of {may}"

    def _blocks(self, write: Write, side: str) -> Iterator[Block]:
        topic = self._topics.events(side)
        for sent in write.records:
            if sent.topic == topic:
                yield Block.decode(dict(sent.headers)[HEADER], sent.value or b"")
