"""What is left to do when a generation's stores are there: each is kept as a Checkpoint, and its vectors are told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from forebay.segments.bundle import Bundle
from forebay.segments.spec import Side
from forebay.store.checkpoints import Checkpoints, about
from forebay.store.codec import HEARTBEAT_KEY, codec_of, pack_heartbeat
from forebay.store.partitionstore import PartitionStore
from forebay.streams import tail
from forebay.streams.build import Target
from forebay.streams.cluster import Address
from forebay.streams.topics import Topics
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.worker.batch import Record

BATCH = 4096


def keep_checkpoint(checkpoints: Checkpoints, of: str, path: Path, now_ms: int) -> None:
    """Keep the store at `path`, which nobody has open, as the Checkpoint `of` (`g1/user-3`), made `now_ms`."""
    copy = path.with_name(f".snapshot-{os.getpid()}-{path.name}")
    with PartitionStore.open(path, create=False) as store:
        meta = store.meta()
        store.snapshot(copy)
    checkpoints.save(copy, about(of, meta, now_ms))
    shutil.rmtree(copy)


def tell_vectors(
    bundle: Bundle,
    side: Side,
    targets: Sequence[Target],
    bootstrap: Address,
    topics: Topics,
    name: str,
    told: Callable[[int], None] = lambda rows: None,
) -> None:
    """Every entity's vectors in the topic of generation `name`, a partition at a time, and what they are as of; and the
    end of what an earlier run told of entities that this one does not have. `told` hears of rows."""
    topic, codec = topics.vectors(name, side), codec_of(bundle, side)
    log = TransactionLog(
        bootstrap,
        f"backfill of {name}",
        transactional_id=f"{topics.prefix}forebay.backfill.{name}.{side}",
        timeout_ms=60_000,
    )
    for target in targets:
        gone = {key for m in tail.read(bootstrap, topic, {target.partition: 0}) if (key := m.key()) != HEARTBEAT_KEY}
        with PartitionStore.open(target.path(side), create=False) as store:
            for part in store.scan_by(BATCH):
                names = [name for name, _ in part]
                rows = np.frombuffer(b"".join(row.vectors for _, row in part), codec.dtype).copy()
                packed = codec.pack_named(rows, names)
                log.commit(
                    [Record(topic, target.partition, *pair) for pair in zip(names, packed, strict=True)], [], None
                )
                gone.difference_update(names)
                told(len(names))
        last = [Record(topic, target.partition, key, None) for key in sorted(gone)]
        log.commit([*last, Record(topic, target.partition, HEARTBEAT_KEY, pack_heartbeat(target.as_of))], [], None)
    log.close()
