"""Workers over Kafka: a stage, what it reads, and the group that it reads in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from forebay.clock import now_ms
from forebay.segments.spec import SIDES
from forebay.store.checkpoints import Checkpoints
from forebay.streams.cluster import Address
from forebay.streams.intake.accept import Rules
from forebay.streams.intake.breaker import BreakerOptions
from forebay.streams.intake.catalogue import CATALOGUE_BYTES
from forebay.streams.intake.intake import MEMORY_BYTES, Intake
from forebay.streams.sources.foreign import Foreign
from forebay.streams.topics import TopicInfo, Topics, describe, describe_foreign
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.transports.librdkafka.notes import Notes
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.refusals import other_count
from forebay.streams.worker.source import Source
from forebay.streams.worker.transport import Transport

# The moment of an end is told by this machine's clock, and append times by the broker's: they may differ by so much.
CLOCK_MARGIN_MS = 1000


class Carry(Protocol):
    """What makes a Transport: LibrdkafkaTransport, or another whose membership is not librdkafka's."""

    def __call__(self, membership: Membership) -> Transport: ...


def intake_worker(
    bootstrap: Address,
    topics: Topics,
    folder: Path,
    options: WorkerOptions = WorkerOptions(),
    checkpoints: Checkpoints | None = None,
    *,
    rules: Rules = Rules(),
    memory_bytes: int = MEMORY_BYTES,
    catalogue_bytes: int = CATALOGUE_BYTES,
    breaker: BreakerOptions | None = None,
    foreign: Sequence[Foreign] = (),
    carry: Carry = LibrdkafkaTransport,
) -> Worker:
    """A worker of the Intake, whose stores lie in `folder`. `foreign` says what the records of `topics.foreign` are.
    Raises BrokerUnavailable, TopicMissing or MissingExtra before anything is joined."""
    own = [*topics.own_sources, *(topics.events(side) for side in SIDES), topics.catalogue]
    info = describe(bootstrap, own) | describe_foreign(bootstrap, topics.foreign)
    sources = _sources(info[name] for name in topics.sources)
    counts = {side: info[topics.events(side)].partitions for side in SIDES}
    # Of a topic of our own this is refused elsewhere (ensure, doctor).
    stamped = [name for name in topics.foreign if info[name].timestamp_type != "LogAppendTime"]
    intake = Intake(
        topics, sources, counts, folder, rules, memory_bytes, catalogue_bytes, breaker,
        foreign=foreign, stamped_elsewhere=stamped,
    )  # fmt: skip
    membership = Membership(
        bootstrap, sources, topics.intake_group, options, intake.name, _ThisMoment(),
        follows=_sources([info[intake.follows]]), seats=intake.folder,
    )  # fmt: skip
    return _started(intake, carry(membership), options, checkpoints)


def side_worker(
    processor: Processor,
    bootstrap: Address,
    options: WorkerOptions = WorkerOptions(),
    checkpoints: Checkpoints | None = None,
    *,
    carry: Carry = LibrdkafkaTransport,
) -> Worker:
    """A worker of one side of a generation.

    Raises BrokerUnavailable, TopicMissing, TopicMismatch, StoreMissing or CheckpointError before anything is joined.
    """
    topics, generation, side = processor.topics, processor.generation, processor.side
    info = describe(bootstrap, [processor.topic, topics.vectors(generation, side)])
    for one in info.values():
        if one.partitions != processor.count:
            raise other_count(one.name, one.partitions, processor.count, str(bootstrap))
    membership = Membership(
        bootstrap, _sources([info[processor.topic]]), topics.group(generation, side), options, processor.name,
        Notes(bootstrap, topics), seats=processor.folder,
    )  # fmt: skip
    return _started(processor, carry(membership), options, checkpoints)


def _started(
    stage: Intake | Processor,
    transport: Transport,
    options: WorkerOptions,
    checkpoints: Checkpoints | None,
) -> Worker:
    try:
        return Worker(stage, transport, options, checkpoints)
    except BaseException:
        transport.close()
        raise


def _sources(info: Iterable[TopicInfo]) -> list[Source]:
    return [Source(one.name, partition, one.topic_id) for one in info for partition in range(one.partitions)]


class _ThisMoment:
    """The Intake reads the sources themselves: their ends, asked now, have all that they took until now."""

    def as_of(self) -> int:
        return now_ms() - CLOCK_MARGIN_MS

    def close(self) -> None:
        pass
