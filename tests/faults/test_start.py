"""`forebay work`, and Embedded, beside a broker that does not answer yet: they wait, say so, and work when it does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forebay.config import Settings
from forebay.embedded import Embedded
from forebay.errors import BrokerUnavailable, ServerUnavailable
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES
from forebay.store.generation import Generation
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure

pytestmark = pytest.mark.broker
WAITS = "waiting for the broker at "
CONNECT_S = 5.0  # what a start gives one try


class Started:
    """A process of `forebay work`, and what it has said."""

    def __init__(self, kafka: DevKafka, topics: Topics, folder: Path, within: str) -> None:
        self.log = folder / f"work-{within}.log"
        words = ["work", "--only", "intake", "--bootstrap", kafka.bootstrap, "--prefix", topics.prefix]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "FOREBAY_BROKER_WITHIN": within,
        }  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "forebay.cli", *words, "--data", str(folder / "data")],
                stdout=out, stderr=out, env=environment,
            )  # fmt: skip

    def said(self, word: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return word in self.log.read_text()

    def stopped(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def started(kafka: DevKafka, topics: Topics, tmp_path: Path) -> Iterator[Callable[[str], Started]]:
    ensure(kafka.bootstrap, topics, generation=None, partitions=2)
    all_of_them: list[Started] = []

    def start(within: str) -> Started:
        all_of_them.append(Started(kafka, topics, tmp_path, within))
        return all_of_them[-1]

    yield start
    for one in all_of_them:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        print(one.log.read_text())


def test_a_broker_that_takes_connections_and_does_not_answer_is_waited_for(
    started: Callable[[str], Started], frozen: Callable[[], Any], wait_for: Callable[..., None]
) -> None:
    """Longer than one try takes. With the default of a minute; told to stop meanwhile, another one ends at once."""
    with frozen():
        work, other = started("60s"), started("600s")
        for one in (work, other):
            wait_for(lambda one=one: one.said(WAITS), "the line that says that it waits")  # type: ignore[misc]
        assert other.stopped() == 0, other.log.read_text()
        time.sleep(CONNECT_S + 2)
        assert not work.said("ready: the intake")
    wait_for(lambda: work.said("ready: the intake"), "the worker")
    assert work.said("the broker answers, after ")
    assert work.stopped() == 0, work.log.read_text()


def test_a_broker_that_is_not_there_yet_is_waited_for(
    started: Callable[[str], Started], kafka: DevKafka, wait_for: Callable[..., None]
) -> None:
    """Nobody listens at its address; another start has less patience, and ends by name."""
    try:
        kafka.stop()
        work, hasty, none = started("60s"), started("3s"), started("0s")
        assert hasty.process.wait(120) == 1 and none.process.wait(120) == 1
        assert "s: broker_within)" in hasty.log.read_text() and WAITS in hasty.log.read_text()
        assert "no Kafka broker answers" in none.log.read_text() and WAITS not in none.log.read_text()
        wait_for(lambda: work.said(WAITS), "the line that says that it waits")
    finally:
        kafka.start()
    wait_for(lambda: work.said("ready: the intake"), "the worker")
    assert work.stopped() == 0, work.log.read_text()


def test_lookups_in_process_wait_for_a_broker_too(
    kafka: DevKafka, topics: Topics, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """One that is closed meanwhile waits no longer, and one that may not wait ends by name."""
    ensure(kafka.bootstrap, topics, generation="g1", partitions=1)
    bundle.save(tmp_path / "bundles")
    Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, 1), {}).save(tmp_path / "generations" / "g1")
    settings = replace(Settings(), bootstrap=kafka.bootstrap, topic_prefix=topics.prefix, data_dir=tmp_path)
    lookup, closed = Embedded(settings), Embedded(replace(settings, data_dir=tmp_path / "other"))
    shutil.copytree(tmp_path / "bundles", tmp_path / "other" / "bundles")
    shutil.copytree(tmp_path / "generations", tmp_path / "other" / "generations")
    try:
        kafka.stop()
        with ThreadPoolExecutor(2) as pool:
            opening, other = pool.submit(lookup.open), pool.submit(closed.open)
            wait_for(lambda: caplog.text.count(WAITS) >= 2, "the lines that say that they wait")
            closed.close()
            with pytest.raises(ServerUnavailable, match="closed before it was open"):
                other.result(60)
            with pytest.raises(BrokerUnavailable):
                Embedded(replace(settings, data_dir=tmp_path / "other", broker_within="0s")).open()
            kafka.start()
            opening.result(120)
        assert lookup.ready().reason == "no worker has told how far it is: is one running?"
    finally:
        kafka.start()
        lookup.close()
