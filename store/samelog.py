"""Whether a store is of the log and of the layout that it is opened for."""

from __future__ import annotations

from pathlib import Path

from forebay.errors import StoreError, TopicMismatch
from forebay.store.partitionstore import PartitionMeta


def check_same_log(meta: PartitionMeta, fresh: PartitionMeta, path: Path) -> None:
    """Called when a store is opened at `path`, which was written as `meta` says and would begin as `fresh` today.
    Nothing was changed by then.

    Raises TopicMismatch (the topic is another one than the state was folded from) or StoreError (another partition, or
    rows of another layout).
    """
    mend = "Build another generation (forebay backfill --generation NEW): the state of this one belongs to the old log"
    if (meta.topic, meta.partition) != (fresh.topic, fresh.partition):
        raise StoreError(f"holds {meta.topic}[{meta.partition}], not {fresh.topic}[{fresh.partition}]", where=str(path))
    if meta.topic_id != fresh.topic_id:
        raise TopicMismatch(f"topic {meta.topic} was deleted and created again since", where=str(path), do=mend)
    if meta.partitions != fresh.partitions:
        raise TopicMismatch(
            f"topic {meta.topic} has {fresh.partitions} partitions, and had {meta.partitions} when the state was "
            f"folded",
            where=str(path),
            do=mend,
        )
    if meta.layout != fresh.layout:
        raise StoreError(
            "its rows are of another spec",
            where=str(path),
            do="Give each generation a --state folder of its own, or build another one: forebay backfill --generation "
            "NEW",
        )
