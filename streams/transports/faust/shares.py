"""Who gets which partitions when a group changes, in two rounds: nobody is given what another still has.

faust's consumer gives up all its partitions at each change of the group. Here every member says what it still has, and
goes on with what it keeps. What is to go elsewhere is first taken from who has it; when that member has let go, it
joins again, and the next round gives it away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

Place: TypeAlias = tuple[str, int]  # a topic and one of its partitions


def shares(places: Collection[Place], has: Mapping[str, Collection[Place]]) -> dict[str, list[Place]]:
    """What each member gets now, of `has` (member -> what it still has). No two get the same, and no one what another
    has. Repeated with what they got, it ends with all `places` given, as evenly as can be, and as little moved."""
    owner: dict[Place, str] = {}
    for member in sorted(has):
        for place in has[member]:
            if place in places:
                owner.setdefault(place, member)
    kept: dict[str, list[Place]] = {member: [] for member in has}
    for place in sorted(owner):
        kept[owner[place]].append(place)
    # Who has most may keep one more where it does not come out even.
    order = sorted(has, key=lambda member: (-len(kept[member]), member))
    least, odd = divmod(len(places), len(order)) if order else (0, 0)
    most = {member: least + (n < odd) for n, member in enumerate(order)}
    for member in order:
        del kept[member][most[member] :]
    taken = {place for found in kept.values() for place in found}
    free = iter(sorted(set(places) - taken))
    for member in order:
        for _ in range(most[member] - len(kept[member])):
            place = next(free)
            if place not in owner:  # else another has it still: the next round gives it
                kept[member].append(place)
    return {member: sorted(found) for member, found in kept.items()}


def shares_by_topic(
    places: Collection[Place], has: Mapping[str, Collection[Place]], reads: Mapping[str, Collection[str]]
) -> dict[str, list[Place]]:
    """The same where not all members read the same topics: `reads` are those of each. In a rolling restart that adds a
    source the older ones do not know its topic, and cannot take a partition of it. What comes out even is each set of
    topics that the same members read."""
    readers = {
        topic: tuple(sorted(member for member in reads if topic in reads[member]))
        for topic in sorted({topic for topics in reads.values() for topic in topics})
    }
    found: dict[str, list[Place]] = {member: [] for member in has}
    for group in sorted(set(readers.values())):
        part = {place for place in places if readers.get(place[0]) == group}
        for member, got in shares(part, {member: has[member] for member in group}).items():
            found[member] += got
    return {member: sorted(got) for member, got in found.items()}


class Shares(AbstractPartitionAssignor):  # type: ignore[misc]
    """aiokafka's way to ask: the leader of the group calls `assign`, and each member `metadata` when it joins. `still`
    returns what this member has."""

    name = "forebay-1"  # of its own: who speaks another protocol is refused by the broker, and not misunderstood

    def __init__(self, still: Any) -> None:
        self._still = still

    def metadata(self, topics: Collection[str]) -> ConsumerProtocolMemberMetadata:
        """What is sent with a join."""
        return ConsumerProtocolMemberMetadata(0, sorted(topics), msgspec.msgpack.encode(sorted(self._still())))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """What each member gets of the topics that it reads."""
        reads = {member: m.subscription for member, m in members.items()}
        topics = {topic for found in reads.values() for topic in found}
        places = {(topic, p) for topic in topics for p in cluster.partitions_for_topic(topic) or ()}
        has = {member: msgspec.msgpack.decode(m.user_data, type=list[Place]) for member, m in members.items()}
        return {member: _assignment(found) for member, found in shares_by_topic(places, has, reads).items()}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing is kept here."""


def _assignment(places: Sequence[Place]) -> ConsumerProtocolMemberAssignment:
    by_topic: dict[str, list[int]] = {}
    for topic, partition in places:
        by_topic.setdefault(topic, []).append(partition)
    return ConsumerProtocolMemberAssignment(0, sorted(by_topic.items()), b"")
