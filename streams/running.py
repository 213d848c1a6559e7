"""The generation that `forebay extend` makes another one of: its clean logs and Checkpoints, which are only read."""

from __future__ import annotations

import logging
from pathlib import Path

from confluent_kafka import Consumer

from forebay.errors import CheckpointError, LogGap, StoreMissing, TopicMismatch
from forebay.segments.spec import SIDES, Side
from forebay.store.checkpoints import Checkpoint, Checkpoints
from forebay.store.generation import Generation
from forebay.streams.clients import asking_consumer
from forebay.streams.cluster import Address
from forebay.streams.offsets import bounds
from forebay.streams.topics import TopicInfo, Topics, describe

log = logging.getLogger("forebay.extend")


class Running:
    """`logs` are the clean logs, `parts` their partitions, `first` where each begins."""

    def __init__(self, of: Generation, bootstrap: Address, topics: Topics, checkpoints: Checkpoints) -> None:
        """Raises TopicMismatch where a log has other partitions than the generation, what `checkpoints_of` raises of
        any partition, and BrokerUnavailable."""
        self._of, self._bootstrap, self._checkpoints = of, bootstrap, checkpoints
        info = describe(bootstrap, [topics.events(side) for side in SIDES])
        self.logs: dict[Side, TopicInfo] = {side: info[topics.events(side)] for side in SIDES}
        for side, one in self.logs.items():
            if one.partitions != of.partitions[side]:
                raise TopicMismatch(
                    f"it has {one.partitions} partitions, and generation {of.name} is of {of.partitions[side]}",
                    where=one.name, do="Build the generation from history: forebay backfill",
                )  # fmt: skip
        self.parts: list[tuple[Side, int]] = [(side, p) for side in SIDES for p in range(of.partitions[side])]
        self.first = self.firsts()
        self._ends = {part: self.checkpoints_of(*part)[0].offset for part in self.parts}

    def records(self, side: Side, partition: int) -> int:
        """How many offsets lie between the log's beginning and the newest Checkpoint, as both were at first."""
        return max(0, self._ends[side, partition] - self.first[side, partition])

    def firsts(self) -> dict[tuple[Side, int], int]:
        """The first offset of each partition that is there now. Raises BrokerUnavailable."""
        consumer = Consumer(asking_consumer(self._bootstrap, committed=True))
        try:
            return {(side, p): bounds(consumer, self.logs[side].name, p)[0] for side, p in self.parts}
        finally:
            consumer.close()

    def fetch(self, side: Side, partition: int, to: Path) -> None:
        """The furthest Checkpoint of a partition that arrives whole, into the folder `to`. Raises CheckpointError where
        none does, and what `checkpoints_of` raises."""
        refused = None
        for one in self.checkpoints_of(side, partition):
            try:
                return self._checkpoints.fetch(one, to)
            except CheckpointError as error:  # pruned meanwhile, or damaged: an older one, from where more is read
                log.warning("%s: %s", one.of, error)
                refused = refused or error
        assert refused is not None
        raise refused

    def checkpoints_of(self, side: Side, partition: int) -> list[Checkpoint]:
        """Those that a worker could go on from, the furthest first; there is one. Raises StoreMissing, TopicMismatch,
        LogGap and CheckpointError where there is none."""
        store, info = f"{self._of.name}/{side}-{partition}", self.logs[side]
        found, refused = list[Checkpoint](), None
        for name in self._checkpoints.names(store):
            try:
                found.append(self._checkpoints.load(store, name))
            except CheckpointError as error:
                log.warning("%s: %s", store, error)
                refused = refused or error
        if not found:
            if refused is not None:
                raise refused
            raise StoreMissing(
                f"there is no checkpoint of {store} at {self._checkpoints.url}",
                do=f"A worker of {self._of.name} makes one of each partition that it owns: is it running, and are its "
                "checkpoints there? forebay checkpoints list",
            )
        of_log = [one for one in found if one.topic_id == info.topic_id]
        if not of_log:
            raise TopicMismatch(
                f"topic {info.name} was made anew since generation {self._of.name} was built", where=store,
                do="Build the generation from history: forebay backfill",
            )  # fmt: skip
        first = self.first[side, partition]
        if of_log[0].offset < first:
            raise LogGap(
                f"the newest checkpoint of {store} ends at offset {of_log[0].offset}, and the log begins at {first}",
                where=f"{info.name}[{partition}]",
                do=f"Nothing goes on from there. Let a worker of {self._of.name} make a newer one, or build the "
                "generation from history: forebay backfill",
            )
        return [one for one in of_log if one.offset >= first]
