"""What waits in several partitions is encoded together, and comes out as if each had been alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebay.events import Behaviour
from forebay.segments.blocks.build import block_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.bundle import Bundle
from forebay.segments.segmentvectors import SegmentVectors
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.state.staterows import StateRows
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import PartitionBatch
from forebay.streams.worker.encode import encode_pending
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source

NOW, COUNT = 1_790_000_000_000, 4


@pytest.fixture
def folded(bundle: Bundle, tmp_path: Path) -> Callable[[], Processor]:
    """A Processor whose four partitions have a few users each, folded and not yet encoded."""

    def fold() -> Processor:
        processor = Processor(bundle, "user", Topics(), "g1", COUNT, tmp_path)
        users = [f"u{n}" for n in range(30)]
        homes = partitions_of([u.encode() for u in users], COUNT).tolist()
        for partition in range(COUNT):
            processor.open(partition, Source(processor.topic, partition, "topic-1"), 0)
            own = [n for n, home in enumerate(homes) if home == partition]
            events = [Behaviour(users[n], f"i{n % 5}", "like", float(n % 7), NOW, "e") for n in own]
            none = [0] * len(own)
            ((header, value),) = block_of(events, none, none, none, ("s/0",)).encode()
            processor.apply([PartitionBatch(partition, [None], [value], [0], [NOW], [[(HEADER, header)]])], aloud=False)
        return processor

    return fold


def test_a_vector_does_not_depend_on_the_partitions_beside_it(bundle: Bundle, folded: Callable[[], Processor]) -> None:
    """Law 3: all partitions together, and each by itself, give the same bits in the same order."""
    processor, encoders = folded(), SideEncoders(bundle, "user")
    pending = {n: owned.waiting() for n, owned in processor.partitions.items()}
    assert all(len(waits) for waits in pending.values())
    together = encode_pending(encoders, processor.partitions, pending).vectors
    for number, waits in pending.items():
        alone = encode_pending(encoders, processor.partitions, {number: waits}).vectors[number]
        assert together[number].keys() == alone.keys()
        for place, vectors in alone.items():
            assert np.array_equal(together[number][place].vectors, vectors.vectors)
            assert np.array_equal(together[number][place].scale, vectors.scale)
            assert np.array_equal(together[number][place].newest, vectors.newest)
    for partition in range(COUNT):
        processor.close(partition)


def test_the_rows_of_many_partitions_are_one_batch(
    bundle: Bundle, folded: Callable[[], Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty users in four partitions are one call for each segment, not four."""
    processor = folded()
    sizes: list[int] = []
    plain = SideEncoders.encode_rows

    def counted(encoders: SideEncoders, place: int, given: StateRows) -> SegmentVectors:
        sizes.append(len(given))
        return plain(encoders, place, given)

    monkeypatch.setattr(SideEncoders, "encode_rows", counted)
    outcome = processor.apply([])
    assert len(outcome.records) == 30
    assert sizes == [30] * len(bundle.spec.side("user"))
    for partition in range(COUNT):
        processor.close(partition)
