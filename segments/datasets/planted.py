"""The synthetic world as a History, with the truth that was planted in it. Blocks are made from the world's columns,
chunk by chunk and as often as they are read: a log of any length needs the memory of its users and items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.arrays import Floats, Ints
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import BEHAVIOUR, Attribute, schema_of
from forebay.segments.datasets.synthetic import ACTIONS, Words
from forebay.segments.datasets.world import Impressions, World
from forebay.segments.datasets.worldoptions import WorldOptions
from forebay.segments.history import History
from forebay.segments.spec.attribute import THOUSANDTHS

SOURCES = ("synthetic/0",)
_LENGTH, _TOPICS = Attribute("item", "length", "number"), Attribute("item", "topics", "texts")
BIRTHS = 16_384  # of one Block


@dataclass(frozen=True)
class Planted:
    """A world of `options`, each event once."""

    options: WorldOptions

    @cached_property
    def history(self) -> History:
        """What a service would have seen."""
        return History(_Blocks(self.world))

    @cached_property
    def world(self) -> World:
        """What it is drawn from."""
        return World(self.options)

    @cached_property
    def probability(self) -> Floats:
        """float32 [n]: the true click probability of each of the n behaviours, in order of time."""
        return np.concatenate([chunk.probability for chunk in self.world.chunks()])


class _Blocks:
    """A world's Blocks, to be read again and again."""

    def __init__(self, world: World) -> None:
        self._world, self._words = world, Words(world)
        updates = [self._words.item(n) for n in range(world.options.items)]
        self._items = pa.array([update.item for update in updates], pa.string())
        self._topics = pa.array([update.attributes["topics"] for update in updates], pa.list_(pa.string()))
        self._length = pa.array([update.attributes["length"] for update in updates], pa.float64())
        self._actions = pa.array(ACTIONS, pa.string())

    def __iter__(self) -> Iterator[Block]:
        born = [event for _, event in self._words.births()]
        for start in range(0, len(born), BIRTHS):
            part = born[start : start + BIRTHS]
            none = [0] * len(part)
            yield block_of(part, none, none, none, SOURCES)
        for chunk in self._world.chunks():
            yield self._block(chunk)

    def _block(self, chunk: Impressions) -> Block:
        """What `Words.behaviours` says, without an object for each."""
        count, clicked = len(chunk), chunk.clicked.astype(np.int64)
        items = pa.array(chunk.items)
        columns: dict[str, pa.Array] = {
            "kind": pa.array(np.full(count, BEHAVIOUR, np.uint8)),
            "time": pa.array(chunk.times),
            "append": pa.array(chunk.times),
            "offset": pa.array(chunk.numbers),
            "source": pa.array(np.zeros(count, np.uint16)),
            "value": pa.array(clicked * THOUSANDTHS),
            "user": _named("u", chunk.users),
            "item": self._items.take(items),
            "action": self._actions.take(pa.array(clicked)),
            "id": _named("e", chunk.numbers),
            _LENGTH.column: self._length.take(items),
            _TOPICS.column: self._topics.take(items),
        }
        schema = schema_of((_LENGTH, _TOPICS))
        batch = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
        return Block(batch, SOURCES, (_LENGTH, _TOPICS))


def _named(letter: str, numbers: Ints) -> pa.Array:
    return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")
