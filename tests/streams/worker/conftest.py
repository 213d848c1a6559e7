"""An installation over the memory log, and what it comes to when nothing happens to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from forebay.segments.bundle import Bundle
from forebay.store.partitionstore import PartitionStore
from forebay.streams.worker.protocol import Worker

from .installed import TOPIC, TOPICS, Installation


@pytest.fixture
def here(bundle: Bundle, tmp_path: Path) -> Installation:
    return Installation(bundle, tmp_path)


@pytest.fixture
def digests(here: Installation) -> Callable[[Worker], Mapping[int, str]]:
    """Finish a worker's work; returns the digest of each partition's state, which are all in step with the log."""

    def found(worker: Worker) -> Mapping[int, str]:
        here.turn(worker, times=8)
        worker.finish()
        paths = {p: owned.store.path for p, owned in worker.stage.partitions.items()}  # type: ignore[attr-defined]
        ends = {p: here.log.end(TOPIC, p) for p in paths}
        assert {p: owned.meta.offset for p, owned in worker.stage.partitions.items()} == ends
        worker.leave()
        return {p: PartitionStore.open(path, create=False).digest() for p, path in paths.items()}

    return found


@pytest.fixture
def undisturbed(here: Installation, digests: Callable[[Worker], Mapping[int, str]]) -> Callable[[], Mapping[int, str]]:
    """What one worker gives that reads the log from its beginning, in a group that has read nothing."""

    def read() -> Mapping[int, str]:
        here.log.group(TOPICS.group("g1", "user"), 2).offsets.clear()
        return digests(here.worker(here.folder / "undisturbed", "z", plain=True))

    return read
