"""A backfill's events on disk, by side and partition: written by the process that reads them, read by those that build.

The past has no partitions and no ticks: its events go where their entity lies. The clean log has both, and its events
stay where they are. A behaviour that is in both is taken from the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from forebay.arrays import Ints
from forebay.segments.blocks import blockfile
from forebay.segments.blocks.block import Block, texts
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE, USER_PROFILE
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.hashing import hashes_of
from forebay.streams.intake.duplicates import HourSets, Identities, identities_of
from forebay.streams.routing import partitions_at

_KINDS: Mapping[Side, tuple[int, int]] = {"user": (BEHAVIOUR, USER_PROFILE), "item": (BEHAVIOUR, ITEM_UPDATE)}


class Spool:
    """One folder of Blocks. The log is written first: what of the past is in it too is told by its identities, 16 bytes
    of memory for each of its behaviours. One thread writes; others may read when it is done."""

    def __init__(self, folder: Path, partitions: Mapping[Side, int]) -> None:
        """`folder` is there, and empty; each side's clean log has so many `partitions`."""
        self._folder, self._counts = folder, partitions
        self._known = HourSets()
        self.events = 0  # how many are to be folded, of both sides

    def add_log(self, side: Side, partition: int, block: Block) -> None:
        """The next events of a partition of a clean log."""
        if side == "user":
            at = np.flatnonzero(block.numbers("kind") == BEHAVIOUR)
            self._known.add(block.numbers("time")[at], _identities(block, at))
            self._known.taken()  # they are kept nowhere
        self._append(side, partition, "log", block)

    def add_past(self, block: Block) -> None:
        """Events of before the log, or from beside it."""
        acted = np.flatnonzero(block.numbers("kind") == BEHAVIOUR)
        new = self._known.add(block.numbers("time")[acted], _identities(block, acted))
        self._known.taken()
        kept = np.ones(len(block), np.bool_)
        kept[acted] = new
        for side in SIDES:
            rows = np.flatnonzero(kept & np.isin(block.numbers("kind"), _KINDS[side]))
            if not len(rows):
                continue
            data, starts, ends = texts(block.batch.column(side))
            homes = partitions_at(data, starts[rows], ends[rows], self._counts[side])
            order = np.argsort(homes, kind="stable")
            whole, homes = block.take(rows[order]), homes[order]
            edges = [0, *(np.flatnonzero(homes[1:] != homes[:-1]) + 1).tolist(), len(homes)]
            for first, last in pairwise(edges):
                self._append(side, int(homes[first]), "past", whole.slice(first, last))

    def blocks(self, side: Side, partition: int) -> Iterator[Block]:
        """What was added of one partition: the past, then the log in its order. Raises BlockError for a file that is
        not what was written."""
        return read(self.paths(side, partition))

    def paths(self, side: Side, partition: int) -> list[Path]:
        """The files of one partition, in the order in which they are folded; some may not be there."""
        return [self._folder / f"{side}-{partition}.{part}" for part in ("past", "log")]

    def _append(self, side: Side, partition: int, part: str, block: Block) -> None:
        blockfile.append(self._folder / f"{side}-{partition}.{part}", block)
        self.events += len(block)


def read(paths: Iterable[Path]) -> Iterator[Block]:
    """The Blocks of spooled files, one file after the other."""
    for path in paths:
        yield from blockfile.read(path)


def _identities(block: Block, at: Ints) -> Identities:
    users, ids = (hashes_of(*texts(block.batch.column(name))) for name in ("user", "id"))
    return identities_of(users[at], block.numbers("time")[at], ids[at])
