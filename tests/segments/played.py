"""A log, played into a real partition: rows in memory, and a store in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from forebay.arrays import Ints
from forebay.events import Behaviour, Event, ItemUpdate, Tick, UserProfile
from forebay.segments.spec import Side, Spec
from forebay.segments.state.columns import ColumnCoder
from forebay.segments.state.fold import Fold
from forebay.segments.state.ids import Ids
from forebay.segments.state.layout import Layout
from forebay.segments.state.stretch import Stretch
from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta

from .logs import Entry


def stretches(coder: ColumnCoder, events: Sequence[Event]) -> list[Stretch]:
    """A batch of one partition, in order of the log, cut at its ticks: the plain way. Every event has an id and a
    time."""
    found: list[Stretch] = []
    acted: list[Behaviour] = []
    updated: list[UserProfile | ItemUpdate] = []

    def cut(tick: int) -> None:
        found.append(Stretch(coder.behaviours(acted), coder.updates(updated), tick))
        acted.clear()
        updated.clear()

    for event in events:
        match event:
            case Tick():
                cut(event.time)
            case Behaviour():
                acted.append(event)
            case _:
                updated.append(event)
    if acted or updated:
        cut(0)
    return found


class Played:
    """A partition of one side, and the entities that it was sent events of."""

    def __init__(self, spec: Spec, side: Side) -> None:
        self.layout, self._coder = Layout.of(spec, side), ColumnCoder(spec, side)
        self._fold = Fold(self.layout)
        self._codec = RowCodec(side, tuple(SlotSpec(s.name, s.dim, 1) for s in spec.side(side)))
        self._folder = Path(tempfile.mkdtemp(prefix="forebay-played-"))
        self.partition = self._open()
        self.entities: dict[str, None] = {}

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
            self.partition.fold(stretch)
            for columns in (stretch.behaviours, stretch.updates):
                self.entities.update(dict.fromkeys(columns.entities.to_strings()))

    def reload(self) -> None:
        """As if another process went on from the store."""
        self.partition.flush()
        self.partition.close()
        self.partition = self._open()

    def row(self, entity: str) -> Ints:
        """State of an entity, int64 [width]."""
        return self.partition.rows[self.partition.rows_of(Ids.of([entity]))[0]]

    def _open(self) -> OwnedPartition:
        meta = PartitionMeta("played", 0, "played", 1, self.layout.digest, 0)
        codec = self._codec
        return OwnedPartition.open(self._folder, self._fold, codec, codec.empty(1), meta, create=True)
