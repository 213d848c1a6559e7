"""One segment's vectors of some entities, as an encoder gave them and int8 keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.arrays import Bools, Floats, Int8s, Ints


@dataclass(frozen=True)
class SegmentVectors:
    """Of n entities: `vectors` int8 [n, dim], `scale` float32 [n], `newest` int64 [n] the newest event's time (ms, 0
    where nothing is known yet).

    `finite` bool [n]: where it is False the vector is zero and must not replace the entity's last good one. `stateful`:
    whether the segment reads state at all; one that reads an id alone waits for nothing.
    """

    vectors: Int8s
    scale: Floats
    newest: Ints
    finite: Bools
    stateful: bool

    def __len__(self) -> int:
        return len(self.scale)

    def take(self, part: slice) -> SegmentVectors:
        """Those of `part`."""
        return SegmentVectors(self.vectors[part], self.scale[part], self.newest[part], self.finite[part], self.stateful)
