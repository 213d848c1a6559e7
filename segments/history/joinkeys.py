"""By what an outcome and its impression are joined: the values of one event attribute, as hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Bools, Ints, Places
from forebay.segments.blocks.block import Block, texts
from forebay.segments.blocks.schema import Attribute
from forebay.segments.state.hashing import hashes_of

_NUMBER = np.int64(0x5851F42D4C957F2D)  # the text "3" and the number 3.0 are two values


@dataclass(frozen=True)
class JoinKeys:
    """Of n events: `values` int64 [n], and whether there is one, `known` bool [n]."""

    values: Ints
    known: Bools

    @classmethod
    def same(cls, count: int) -> JoinKeys:
        """One value for all."""
        return cls(np.broadcast_to(np.int64(0), count), np.broadcast_to(np.True_, count))

    @classmethod
    def joined(cls, parts: Sequence[JoinKeys]) -> JoinKeys:
        """One behind the other."""
        values = np.concatenate([np.zeros(0, np.int64), *(p.values for p in parts)])
        return cls(values, np.concatenate([np.zeros(0, bool), *(p.known for p in parts)]))

    def take(self, index: Places) -> JoinKeys:
        """Those at `index`, in that order."""
        return JoinKeys(self.values[index], self.known[index])


def join_keys(block: Block, name: str) -> JoinKeys:
    """What the events of `block` have in the event attribute `name`: a text or a number; a list joins nothing."""
    values, known = np.zeros(len(block), np.int64), np.zeros(len(block), bool)
    text, number = (block.column(Attribute("event", name, kind)) for kind in ("text", "number"))
    if text is not None:
        there = text.is_valid().to_numpy(zero_copy_only=False)
        values, known = np.where(there, hashes_of(*texts(text)), values), known | there
    if number is not None:
        there = number.is_valid().to_numpy(zero_copy_only=False)
        bits = (number.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0).view(np.int64)  # -0.0 is 0.0
        values, known = np.where(there, bits ^ _NUMBER, values), known | there
    return JoinKeys(values, known)
