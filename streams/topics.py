"""The topics: their names, the settings that the guarantees rest on, and the check that a cluster has them so.

Names need no Kafka library; the functions that ask a broker load kafka-python when they are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forebay.clock import DAY_MS
from forebay.errors import BrokerError, BrokerUnavailable, TopicMismatch, TopicMissing, UsageError
from forebay.streams.cluster import Address
from forebay.streams.connection import connected, kafka_python

SIDES = ("user", "item")
RETENTION_DAYS = 7.0
DEAD_LETTER_DAYS = 14.0
ANSWER_MS = 10_000  # for each question about topics
_LEGAL = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_SETTINGS = ("message.timestamp.type", "cleanup.policy", "retention.ms")


@dataclass(frozen=True)
class Topics:
    """The names of one installation's topics. `prefix` keeps installations on one cluster apart. `foreign` are whole
    names of topics that others fill and the Intake reads, too: whoever asks how far the Intake has read must know
    them."""

    prefix: str = ""
    foreign: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _legal(f"{self.prefix}behaviour")
        own = {*self.own_sources, *map(self.events, SIDES), self.catalogue, self.dead_letters}
        for place, name in enumerate(self.foreign):
            if _legal(name) in own or name.startswith(f"{self.prefix}vectors."):
                raise UsageError(f'"{name}" is a topic of this installation', do="Name a topic that others fill")
            if name in self.foreign[:place]:
                raise UsageError(f'the topic "{name}" is named twice', do="One record becomes one event: name it once")

    @property
    def behaviour(self) -> str:
        """Behaviour and user profiles, keyed by user."""
        return f"{self.prefix}behaviour"

    @property
    def item_updates(self) -> str:
        """Item updates, keyed by item."""
        return f"{self.prefix}item-updates"

    @property
    def own_sources(self) -> tuple[str, ...]:
        """What publishers write."""
        return (self.behaviour, self.item_updates)

    @property
    def sources(self) -> tuple[str, ...]:
        """What producers write and the Intake reads. Each may have any number of partitions."""
        return (*self.own_sources, *self.foreign)

    @property
    def dead_letters(self) -> str:
        """Records that the Intake refused, see `deadletters`."""
        return f"{self.prefix}dead-letters"

    @property
    def catalogue(self) -> str:
        """The newest accepted update of each item, as JSON with its time and id, keyed by item: compacted. The Intake's
        own memory: it writes it, and every Intake reads all of it."""
        return f"{self.prefix}catalogue"

    def events(self, side: str) -> str:
        """The clean log of one side: Blocks of accepted events, by the murmur2 partition of its entities."""
        return f"{self.prefix}events.{_side(side)}"

    @property
    def intake_group(self) -> str:
        """The consumer group of the Intake's workers."""
        return f"{self.prefix}forebay.intake"

    def vectors(self, generation: str, side: str) -> str:
        """The segment vectors of one side in one generation, partitioned as the side's clean log is."""
        return _legal(f"{self.prefix}vectors.{generation}.{_side(side)}")

    def group(self, generation: str, side: str) -> str:
        """The consumer group of one side's workers in one generation."""
        return f"{self.prefix}forebay.{generation}.{_side(side)}"


@dataclass(frozen=True)
class TopicInfo:
    """One topic as the broker describes it. A recreated topic has another `topic_id`; `retention_ms` -1 is for ever."""

    name: str
    topic_id: str
    partitions: int
    replication: int
    timestamp_type: str
    cleanup_policy: str
    retention_ms: int


@dataclass(frozen=True)
class TopicStatus:
    """What `ensure` found or did: `created` tells new topics from those that were there with the right settings."""

    info: TopicInfo
    created: bool


def ensure(
    bootstrap: Address,
    topics: Topics,
    *,
    generation: str | None,
    partitions: int,
    replication: int = 1,
    retention_days: float = RETENTION_DAYS,
    dead_letter_days: float = DEAD_LETTER_DAYS,
    **client: Any,
) -> list[TopicStatus]:
    """Create what is missing: our own sources, both clean logs, the catalogue, the dead letters and, with a generation,
    its two vectors topics.

    Idempotent, and safe beside another process that does the same; a crash in between leaves some topics, and the next
    call makes the rest. An existing topic is never altered: other partitions (of a source any count will do), timestamp
    type or cleanup policy raise TopicMismatch before anything is created (retention is the operator's to change).
    `client` is passed to kafka-python.
    """
    if partitions < 1:
        raise UsageError(f"{partitions} partitions cannot be", do="Use at least 1")
    wanted = _wanted(topics, generation, partitions, round(retention_days * DAY_MS), round(dead_letter_days * DAY_MS))
    with connected("KafkaAdminClient", bootstrap, **client) as admin:
        present = _describe(admin, wanted)
        for info in present.values():
            _compare(info, *wanted[info.name], bootstrap, any_count=info.name in topics.own_sources)
        missing = {name: settings for name, settings in wanted.items() if name not in present}
        if missing:
            _create(admin, missing, replication, bootstrap)
        found = _describe(admin, wanted)
        for info in found.values():  # another process may have been the one that created it
            _compare(info, *wanted[info.name], bootstrap, any_count=info.name in topics.own_sources)
    _all_there(wanted, found, bootstrap)
    return [TopicStatus(found[name], name in missing) for name in wanted]


def describe(bootstrap: Address, names: Iterable[str], **client: Any) -> dict[str, TopicInfo]:
    """What the broker says of each topic, in the order asked. Raises TopicMissing, or BrokerUnavailable: within 5 s
    where nobody answers, within about 15 s where a broker begins to and falls silent."""
    asked = list(names)
    with connected("KafkaAdminClient", bootstrap, **{"request_timeout_ms": ANSWER_MS, **client}) as admin:
        try:
            found = _describe(admin, asked)
        except kafka_python().errors.KafkaError as error:
            if not error.retriable:
                raise
            said = f"no answer about topics: {error}"
            raise BrokerUnavailable(said, where=str(bootstrap), do="Run: forebay doctor") from None
    _all_there(asked, found, bootstrap)
    return {name: found[name] for name in asked}


def describe_foreign(bootstrap: Address, names: Sequence[str], **client: Any) -> dict[str, TopicInfo]:
    """As `describe`, of topics that others fill: the error does not offer to create them."""
    if not names:
        return {}
    try:
        return describe(bootstrap, names, **client)
    except TopicMissing as error:
        do = "Is its name right? Who fills it creates it, and [[source]] names it as it stands in Kafka"
        raise TopicMissing(error.what, where=error.where, do=do) from None


def _wanted(
    topics: Topics, generation: str | None, partitions: int, retention_ms: int, dead_letter_ms: int
) -> dict[str, tuple[int, dict[str, str]]]:
    # The fold's lateness and a segment's `as_of` are append times: the broker's clock, not each producer's.
    log = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    wanted = {
        **{name: (partitions, log) for name in (*topics.own_sources, *(topics.events(side) for side in SIDES))},
        topics.dead_letters: (1, {**log, "retention.ms": str(dead_letter_ms)}),
    }
    newest = {
        "message.timestamp.type": "LogAppendTime",
        "cleanup.policy": "compact",
        "segment.bytes": str(64 << 20),  # the active segment is never compacted: a restart reads it whole
        "max.compaction.lag.ms": str(DAY_MS),  # what was replaced or erased leaves the log within a day or so
        "delete.retention.ms": str(retention_ms),  # a reader that was away that long still sees the erasure
    }
    wanted[topics.catalogue] = (partitions, newest)
    if generation is not None:
        wanted |= {topics.vectors(generation, side): (partitions, newest) for side in SIDES}
    return wanted


def _create(
    admin: Any, missing: Mapping[str, tuple[int, dict[str, str]]], replication: int, bootstrap: Address
) -> None:
    request = {
        name: {"num_partitions": partitions, "replication_factor": replication, "configs": settings}
        for name, (partitions, settings) in missing.items()
    }
    answer = admin.create_topics(request, raise_errors=False)
    for topic in answer["topics"]:
        if topic["error_code"] not in (0, 36):  # 36: another process created it just now
            raise BrokerError(
                f'topic "{topic["name"]}" was not created: {topic["error_message"]}',
                where=str(bootstrap),
                do="Check the replication factor against the number of brokers, and your rights on the cluster",
            )
    admin.wait_for_topics(list(missing))


def _describe(admin: Any, names: Iterable[str]) -> dict[str, TopicInfo]:
    from kafka.admin import ConfigResource

    there = {topic["name"]: topic for topic in admin.describe_topics(list(names)) if topic["error_code"] == 0}
    if not there:
        return {}
    asked = [ConfigResource("TOPIC", name, list(_SETTINGS)) for name in there]
    settings = admin.describe_configs(asked, config_filter="all")["topic"]
    return {
        name: TopicInfo(
            name=name,
            topic_id=str(topic["topic_id"]),
            partitions=len(topic["partitions"]),
            replication=min((len(partition["replica_nodes"]) for partition in topic["partitions"]), default=0),
            timestamp_type=settings[name]["message.timestamp.type"]["value"],
            cleanup_policy=settings[name]["cleanup.policy"]["value"],
            retention_ms=int(settings[name]["retention.ms"]["value"]),
        )
        for name, topic in there.items()
    }


def _compare(
    info: TopicInfo, partitions: int, settings: Mapping[str, str], bootstrap: Address, *, any_count: bool
) -> None:
    where = f'topic "{info.name}" at {bootstrap}'
    if info.partitions != partitions and not any_count:
        raise TopicMismatch(
            f"it has {info.partitions} partitions, and {partitions} are asked for",
            where=where,
            do=f"Run: forebay topics create --partitions {info.partitions} (or take another --prefix and backfill: "
            "changing the count in place would move keys away from their state)",
        )
    for name, have in (("message.timestamp.type", info.timestamp_type), ("cleanup.policy", info.cleanup_policy)):
        if have != settings[name]:
            raise TopicMismatch(
                f"{name} is {have} and must be {settings[name]}",
                where=where,
                do=f"Run: python -m kafka.admin -b {bootstrap} configs alter -r topic -n {info.name} -c "
                f"{name}={settings[name]}",
            )


def _all_there(wanted: Iterable[str], found: Mapping[str, TopicInfo], bootstrap: Address) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        names = ", ".join(f'"{name}"' for name in missing)
        raise TopicMissing(
            f"no topic {names}",
            where=str(bootstrap),
            do="Run: forebay topics create, with the --prefix and --generation that are used here; or is one misspelt?",
        )


def _legal(name: str) -> str:
    if not _LEGAL.fullmatch(name):
        raise UsageError(
            f"{name!a} cannot be the name of a topic", do="Use up to 249 letters, digits, dots, dashes and underscores"
        )
    return name


def _side(side: str) -> str:
    if side not in SIDES:
        raise UsageError(f"{side!a} is no side", do="Use user or item")
    return side
