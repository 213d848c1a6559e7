"""A log, played into a real partition: rows in memory, and a store in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from forebay.arrays import Ints
from forebay.clock import DAY_MS
from forebay.segments.spec import Side, Spec
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids, hash_id
from forebay.segments.state.layout import Layout
from forebay.segments.state.stretch import stretches
from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta

from .logs import Entry

EVER_MS = 1000 * 365 * DAY_MS  # nothing is forgotten


class Played:
    """A partition of one side, and how many of the behaviours that it was sent counted."""

    def __init__(self, spec: Spec, side: Side) -> None:
        self.layout, self._coder = Layout.of(spec, side), ColumnCoder(spec, side)
        self._fold = Fold(self.layout)
        self._codec = RowCodec(side, tuple(SlotSpec(s.name, s.dim, 1) for s in spec.side(side)))
        self._folder = Path(tempfile.mkdtemp(prefix="forebay-played-"))
        self.partition = self._open()
        self.entities: dict[str, None] = {}
        self.accepted = self.duplicates = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.partition.close()
        shutil.rmtree(self._folder)

    def apply(self, batch: Sequence[Entry]) -> None:
        """One batch."""
        for stretch in stretches(self._coder, batch):
            folded = self.partition.fold(stretch)
            self.accepted += len(folded.new)
            self.duplicates += len(stretch.behaviours) - len(folded.new)
            for columns in (stretch.behaviours, stretch.updates):
                self.entities.update(dict.fromkeys(columns.entities.to_strings()))

    def reload(self) -> None:
        """As if another process went on from the store."""
        self.partition.flush(EVER_MS)
        self.partition.close()
        self.partition = self._open()

    def row(self, entity: str) -> Ints:
        """State of an entity, int64 [width]."""
        return self.partition.rows[self.partition.rows_of(Ids.of([entity]))[0]]

    def spilled(self) -> set[tuple[str, int, int]]:
        """What the duplicate check knows beside the rows: entity, time and hashed id of events that left their list."""
        self.partition.flush(EVER_MS)
        names = {hash_id(entity): entity for entity in self.entities}
        keys = [np.frombuffer(key, ">i8").tolist() for key in self.partition.store.scan_spilled()]
        return {(names[entity], time, identity) for time, entity, identity in keys}

    def _open(self) -> OwnedPartition:
        meta = PartitionMeta("played", 0, "played", 1, self.layout.digest, 0)
        return OwnedPartition.open(self._folder, self._fold, self._codec, meta, create=True)
