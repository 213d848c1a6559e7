"""Who has which partitions of a group now, and who would have them next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """The live members of a group: `of` has the partitions of each by its id, `mine` is the id of who asks."""

    mine: str
    of: Mapping[str, Sequence[int]]

    def heirs(self, count: int) -> frozenset[int]:
        """The partitions that this member would get if their owner was lost, as one of the first `count` in line.

        An assignor that keeps what is in place hands out a lost member's partitions one after the other, each to who
        has fewest. Two members that ask at one time get the same answer; it may be wrong where members come or go
        meanwhile, and then something was kept in vain.
        """
        found = set[int]()
        for lost, partitions in self.of.items():
            others = {member: len(self.of[member]) for member in sorted(self.of) if member != lost}
            for partition in sorted(partitions):
                line = sorted(others, key=lambda member: (others[member], member))
                if lost != self.mine and self.mine in line[:count]:
                    found.add(partition)
                if line:
                    others[line[0]] += 1
        return frozenset(found)
