"""What the settings name: the Kafka, and the workers of one process, the Intake and both sides of a generation."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from forebay.config import Settings
from forebay.errors import ConfigError, SpecError, UsageError
from forebay.secret import given
from forebay.streams.cluster import Cluster
from forebay.streams.topics import Topics

if TYPE_CHECKING:  # loaded when workers are made, which takes seconds
    from forebay.store.checkpoints import Checkpoints
    from forebay.streams.cluster import Address
    from forebay.streams.sources.foreign import Foreign
    from forebay.streams.transports.librdkafka.start import Carry
    from forebay.streams.worker.options import WorkerOptions
    from forebay.streams.worker.protocol import Worker

log = logging.getLogger("forebay")
STAGES = ("intake", "user", "item")
# Of the Intake's batches. A transaction costs the broker milliseconds, and what it brings costs the sides as many,
# however few events are in it: where that takes long, fewer batches leave everyone sooner. Event to vector at 100
# events/s on two busy cores, p50: 124-168 ms; with a fixed hold of 5, 20 and 60 ms 144-248, 140-192 and 83-153.
HOLD_COMMITS = 2.0


def cluster_of(settings: Settings) -> Cluster:
    """The Kafka that the settings name, with its secrets read. Raises ConfigError for settings that do not go together,
    and files that are not there."""
    return Cluster(
        settings.bootstrap,
        settings.kafka_protocol,
        settings.kafka_ca,
        settings.kafka_certificate,
        settings.kafka_key,
        given("kafka_key_password", settings.kafka_key_password, settings.kafka_key_password_file),
        settings.kafka_mechanism,
        settings.kafka_user,
        given("kafka_password", settings.kafka_password, settings.kafka_password_file),
    )


def topics_of(settings: Settings) -> Topics:
    """The installation's topics, those that others fill among them. Raises ConfigError and UsageError."""
    return Topics(settings.topic_prefix, tuple(table.topic for table in settings.source))


def foreign_of(settings: Settings) -> list[Foreign]:
    """What the records of topics are that others fill. Raises ConfigError."""
    if not settings.source:
        return []
    from forebay.streams.sources.foreign import Foreign  # the secrets of registries are read by it

    return [Foreign.of(table) for table in settings.source]


def chosen(only: str | None) -> tuple[str, ...]:
    """The stages that `only` names, all without it. Raises UsageError."""
    if only not in (None, *STAGES):
        raise UsageError(f"--only {only!r}", do=f"Use one of {', '.join(STAGES)}, or leave it out for all")
    return STAGES if only is None else (only,)


def options_of(settings: Settings, slot: str) -> WorkerOptions:
    """Of a worker in `slot`. Raises ConfigError for what is no duration."""
    from forebay.streams.worker.options import WorkerOptions

    return WorkerOptions(
        slot=slot,
        checkpoint_every_s=max(1.0, _seconds("checkpoint_every", settings.checkpoint_every)),
        checkpoints_kept=settings.checkpoints_kept,
        standby=settings.standby,
    )


def workers(
    settings: Settings, kafka: Address, stages: Collection[str], options: WorkerOptions, carry: Carry | None = None
) -> list[Worker]:
    """A worker of each of `stages`, over librdkafka or what `carry` makes. Nothing is joined yet. Takes seconds.

    Raises GenerationError, BundleError, StoreMissing, CheckpointError, ConfigError, and BrokerError where the broker or
    a topic is not there: none is left then.
    """
    from forebay.store.checkpoints import Checkpoints
    from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport

    by, checkpoints = carry or LibrdkafkaTransport, Checkpoints(settings.checkpoints_url)
    made: list[Worker] = []
    try:
        for worker in _sides(settings, kafka, stages, options, checkpoints, by):
            made.append(worker)  # noqa: PERF402 - those before one that is not made are left below
        if "intake" in stages:
            made.append(_intake(settings, kafka, options, checkpoints, by))
    except BaseException:
        for worker in made:  # its clients are there already, and who waits for a broker calls this again
            worker.leave()
        raise
    return made


def about(settings: Settings, stages: Collection[str], slot: str) -> str:
    """What such workers are, in a line."""
    what = "the intake" if set(stages) == {"intake"} else f"generation {settings.generation}"
    return f"{what}, slot {slot}"


def broker_within_s(settings: Settings) -> float:
    """How long a start waits for a broker. Raises ConfigError for what is no duration."""
    return _seconds("broker_within", settings.broker_within)


def _seconds(name: str, text: str) -> float:
    from forebay.segments.spec.toml import duration_ms

    try:
        return duration_ms(text, name) / 1000
    except SpecError as error:
        raise ConfigError(f"{name} {text!r} is no duration", do=error.do) from None


def _sides(
    settings: Settings,
    kafka: Address,
    stages: Collection[str],
    options: WorkerOptions,
    checkpoints: Checkpoints,
    carry: Carry,
) -> Iterator[Worker]:
    from forebay.segments.bundle import Bundle
    from forebay.segments.spec import SIDES
    from forebay.store.generation import Generation
    from forebay.streams.topics import describe
    from forebay.streams.transports.librdkafka.start import side_worker
    from forebay.streams.worker.processor import Processor
    from forebay.streams.worker.segmentoptions import options_of as options_of_segments

    if not any(side in stages for side in SIDES):
        return
    generation = Generation.load(settings.generation_dir, name=settings.generation)
    bundle = Bundle.load(settings.bundles / generation.bundle_hash[:12])
    log.info("generation %s, bundle %s", generation.name, bundle.name)
    topics = topics_of(settings)
    segments = options_of_segments(settings.segment, [s.title for side in SIDES for s in bundle.spec.side(side)])
    for side in SIDES:
        if side in stages:
            topic = topics.events(side)
            count = describe(kafka, [topic])[topic].partitions
            memory = settings.state_memory_mb << 20
            processor = Processor(bundle, side, topics, generation.name, count, settings.state, memory, segments)
            yield side_worker(processor, kafka, options, checkpoints, carry=carry)


def _intake(
    settings: Settings, kafka: Address, options: WorkerOptions, checkpoints: Checkpoints, carry: Carry
) -> Worker:
    from forebay.streams.intake.accept import Rules
    from forebay.streams.intake.bounds import Bounds
    from forebay.streams.intake.pausing import breaker_options
    from forebay.streams.transports.librdkafka.start import intake_worker

    bounds = Bounds.of(settings)
    return intake_worker(
        # The group is every generation's: workers of two in one slot are not in each other's way.
        kafka, topics_of(settings), settings.intake,
        replace(options, hold_commits=HOLD_COMMITS, slot=f"{settings.generation}.{options.slot}"), checkpoints,
        rules=Rules(bounds.late_after_ms, bounds.future_after_ms),
        memory_bytes=settings.intake_memory_mb << 20,
        catalogue_bytes=settings.catalogue_memory_mb << 20,
        breaker=breaker_options(settings),
        foreign=foreign_of(settings),
        carry=carry,
    )  # fmt: skip
