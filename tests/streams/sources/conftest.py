"""Topics of other people on a real broker, and an Intake that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from forebay.config import SourceTable
from forebay.events import Event
from forebay.streams.deadletters import DeadLetter
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.sources.foreign import Foreign
from forebay.streams.topics import Topics, describe, ensure

from .apicurio import Apicurio


def foreign(topic: str, **values: Any) -> Foreign:
    """A `[[source]]`."""
    return Foreign.of(SourceTable({"topic": topic} | values, "forebay.toml"))


@dataclass(frozen=True)
class Taken:
    """What an Intake has made of its sources: the events of both clean logs, and the dead letters."""

    users: Sequence[Event]
    items: Sequence[Event]
    letters: Sequence[DeadLetter]


@pytest.fixture
def their_topic(kafka: DevKafka, topics: Topics) -> Callable[..., str]:
    """Make a topic as Kafka does by default: times are its producers'."""
    from forebay.streams.connection import connected

    def make(name: str, partitions: int = 2, *, prefix: str = topics.prefix, **configs: str) -> str:
        with connected("KafkaAdminClient", kafka.bootstrap) as admin:
            stamped = {"message.timestamp.type": "CreateTime"}  # Kafka's default; that of this broker is another
            made = {"num_partitions": partitions, "replication_factor": 1, "configs": stamped | configs}
            admin.create_topics({prefix + name: made})
            admin.wait_for_topics([prefix + name])
        return prefix + name

    return make


@pytest.fixture
def taken(
    kafka: DevKafka, topics: Topics, tmp_path: Path, work: Callable[..., Any], lag: Callable[..., int],
    wait_for: Callable[..., None], clean: Callable[..., list[Event]],
) -> Callable[..., Taken]:  # fmt: skip
    """`taken(*foreign)`: run an Intake over these sources until it has read them, and what it made of
    all that was ever there. Again and again it is the same installation."""

    def run(*sources: Foreign) -> Taken:
        there = replace(topics, foreign=tuple(one.topic for one in sources))
        ensure(kafka.bootstrap, there, generation=None, partitions=2)
        with work(there, "intake", tmp_path, foreign=sources) as intake:
            for name, info in describe(kafka.bootstrap, there.sources).items():
                wait_for(lambda: intake.ended or lag(name, intake.group, info.partitions) == 0, name)  # noqa: B023
        return Taken(clean(there, "user"), clean(there, "item"), read_letters(kafka.bootstrap, there))

    return run


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    """The run's Schema Registry. A test that stops one starts one of its own."""
    with Apicurio(tmp_path_factory.mktemp("apicurio")) as running:
        yield running
