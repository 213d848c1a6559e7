"""What several rooms' tests need: one real Kafka broker for the run, and topic names that no other test uses.

The broker starts when the first test asks for it, on free ports and in a folder of this run, and ends by its own process id.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from forebay.streams.devkafka import DevKafka
from forebay.streams.topics import Topics

_number = itertools.count(1)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevKafka]:
    """The run's broker. A test that stops or kills a broker starts one of its own."""
    with DevKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topics() -> Topics:
    """Names under a prefix that no other test of this run has."""
    return Topics(f"t{next(_number)}.")
