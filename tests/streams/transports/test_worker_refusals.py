"""A worker on a real broker is refused by name where state and log do not fit, and told what to do."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from forebay.errors import LogGap, StoreLeads, StoreLocked, TopicMismatch
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.store.partitionstore import PartitionStore
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure
from forebay.streams.worker.options import WorkerOptions

from .conftest import BRISK, PARTITIONS

pytestmark = pytest.mark.broker


def _refused(worker: Any, wait_for: Callable[..., None]) -> BaseException:
    with pytest.raises(Exception) as raised, worker:
        wait_for(lambda: worker.ended, "the refusal")
    return raised.value


def _delete_records(kafka: DevKafka, topic: str, before: int) -> None:
    """What retention does, at once."""
    from kafka import TopicPartition as Place

    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.delete_records({Place(topic, p): before for p in range(PARTITIONS)})


def test_a_gap_in_the_log_is_refused_by_name(
    kafka: DevKafka, there: Topics, tmp_path: Path, worked: Callable[..., None], work: Callable[..., Any],
    feed: Callable[..., None], wait_for: Callable[..., None], now_history: Callable[..., History],
) -> None:  # fmt: skip
    """Retention ate what the store has not folded: nothing goes on from a hole, and the remedy is named."""
    worked(100)
    feed(there, "user", now_history(1000).behaviours)
    _delete_records(kafka, there.events("user"), 200)
    error = _refused(work(there, "user", tmp_path, options=BRISK), wait_for)
    assert isinstance(error, LogGap) and "forebay backfill --generation NEW" in str(error)


def test_a_new_owner_without_state_is_refused_when_the_beginning_of_the_log_is_gone(
    kafka: DevKafka, there: Topics, tmp_path: Path, worked: Callable[..., None], work: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """The group has come a long way from a beginning that cannot be folded again: half a state is no state."""
    worked(300)
    _delete_records(kafka, there.events("user"), 50)
    error = _refused(work(there, "user", tmp_path / "another machine", options=BRISK), wait_for)
    assert isinstance(error, LogGap)


def test_a_first_start_on_an_old_log_begins_at_what_is_there_and_survives_a_crash(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], now_history: Callable[..., History],
) -> None:  # fmt: skip
    """No group has been there: nothing is missing. Where it began is remembered, though nothing else was written."""
    feed(there, "user", now_history(300).behaviours)
    _delete_records(kafka, there.events("user"), 50)
    lazy = WorkerOptions(flush_batches=10_000, flush_interval_s=10_000, heartbeat_interval_s=0.2)
    with work(there, "user", tmp_path, options=lazy) as first:
        wait_for(lambda: lag(there.events("user"), first.group, PARTITIONS) == 0, "the events")
        for partition in range(PARTITIONS):  # what a crash at this moment would leave
            shutil.copytree(tmp_path / f"user-{partition}", tmp_path / "crashed" / f"user-{partition}")
    with work(there, "user", tmp_path / "crashed", options=BRISK) as second:
        wait_for(lambda: second.ended or len(second.stage.partitions) == PARTITIONS, "the takeover")
        assert not second.ended


def test_a_topic_that_was_made_anew_is_refused_by_name(
    kafka: DevKafka, there: Topics, tmp_path: Path, worked: Callable[..., None], work: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Its offsets mean other records."""
    worked(100)
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.delete_topics([there.events("user")])
    ensure(kafka.bootstrap, there, generation="g1", partitions=PARTITIONS)
    error = _refused(work(there, "user", tmp_path, options=BRISK), wait_for)
    assert isinstance(error, TopicMismatch) and "deleted and created again" in str(error)


def test_a_changed_partition_count_is_refused_by_name(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, worked: Callable[..., None],
    work: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Keys have moved away from their state: neither the old count nor the new one may go on."""
    worked(100)
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        for topic in (there.events("user"), there.vectors("g1", "user")):
            admin.create_partitions({topic: 4})
    with pytest.raises(TopicMismatch, match="has 4 partitions"):
        work(there, "user", tmp_path, partitions=2)
    error = _refused(work(there, "user", tmp_path, partitions=4, options=BRISK), wait_for)
    assert isinstance(error, TopicMismatch) and "has 4 partitions, and had 2" in str(error)


def test_a_topic_widened_since_the_start_is_refused_by_name(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """The partition that comes with an assignment is not one of those that state is folded for."""
    worker = work(there, "user", tmp_path, options=BRISK)
    with connected("KafkaAdminClient", kafka.bootstrap) as admin:
        admin.create_partitions({there.events("user"): 3})
    error = _refused(worker, wait_for)
    assert isinstance(error, TopicMismatch) and "has 3 partitions" in str(error)


def test_a_store_ahead_of_its_group_is_refused_by_name(
    kafka: DevKafka, there: Topics, tmp_path: Path, worked: Callable[..., None], work: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """The group was set back: folding on would count twice."""
    worked(100)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"{there.prefix}forebay.g1.user"})
    consumer.commit(offsets=[TopicPartition(there.events("user"), p, 3) for p in range(PARTITIONS)], asynchronous=False)
    consumer.close()
    error = _refused(work(there, "user", tmp_path, options=BRISK), wait_for)
    assert isinstance(error, StoreLeads) and "group at 3" in str(error)


def test_a_group_that_was_set_back_goes_on_where_the_remedy_sets_it(
    kafka: DevKafka, there: Topics, tmp_path: Path, worked: Callable[..., None], work: Callable[..., Any],
    wait_for: Callable[..., None], whole: Callable[..., list[Any]],
    counted: Callable[[Path], Counter[str]],
) -> None:  # fmt: skip
    """The command in the message, as it stands there, once for each partition: then every event has counted once."""
    worked(100)
    group = f"{there.prefix}forebay.g1.user"
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(there.events("user"), p, 3) for p in range(PARTITIONS)], asynchronous=False)
    consumer.close()
    for _ in range(PARTITIONS):
        error = _refused(work(there, "user", tmp_path, options=BRISK), wait_for)
        assert isinstance(error, StoreLeads)
        command = shlex.split(error.do.partition(" then ")[2])
        assert command[0] == "python"
        subprocess.run([sys.executable, "-W", "ignore", *command[1:]], check=True, capture_output=True, timeout=60)
    worked(50)
    assert sum(counted(tmp_path).values()) == 150


def test_a_store_that_another_process_has_is_refused_by_name(
    there: Topics, tmp_path: Path, worked: Callable[..., None], work: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Two writers of one directory cannot be."""
    worked(20)
    with PartitionStore.open(tmp_path / "user-1", create=False):
        assert isinstance(_refused(work(there, "user", tmp_path, options=BRISK), wait_for), StoreLocked)
