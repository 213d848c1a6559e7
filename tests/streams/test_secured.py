"""TLS and SASL with a real broker that demands them: every part of the product gets in, and a refusal says why without
a secret in it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from forebay.errors import BrokerUnavailable, ConfigError
from forebay.events import encode
from forebay.secret import Secret
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES
from forebay.store.codec import HEARTBEAT_KEY
from forebay.store.generation import Generation
from forebay.store.servingcopy import ServingCopy
from forebay.streams import deadletters, tail
from forebay.streams.backfill import backfill
from forebay.streams.clients import asking_consumer
from forebay.streams.cluster import Cluster
from forebay.streams.dev.kafkajars import VERSION
from forebay.streams.offsets import committed
from forebay.streams.publisher import EventPublisher
from forebay.streams.replica import Replica
from forebay.streams.topics import Topics, describe, ensure
from forebay.streams.transports.librdkafka.start import intake_worker, side_worker
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor

from .secured import PASSWORD, USER, SecuredKafka

pytestmark = pytest.mark.broker
PARTITIONS = 2
WRONG = "battery-staple"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """The broker, and its user."""
    with SecuredKafka(tmp_path_factory.mktemp("secured")) as broker:
        broker.let_in()
        yield broker


def test_every_part_gets_in(
    secured: SecuredKafka, topics: Topics, bundle: Bundle, tmp_path: Path, make_history: Callable[..., History],
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    """Topics, publisher, backfill, workers, replica, dead letters: from events to rows that could be served."""
    cluster, now = secured.sasl(), time.time_ns() // 1_000_000
    ensure(cluster, topics, generation="g1", partitions=PARTITIONS)
    history = make_history(300, until_ms=now)
    backfill(
        bundle, make_history(50, until_ms=now), name="g1", bootstrap=cluster, topics=topics,
        folder=tmp_path / "g1", state_folder=tmp_path / "state", now_ms=now,
    )  # fmt: skip
    with EventPublisher(cluster, topics=topics) as publisher:
        for event in [*history.profiles, *history.behaviours]:
            publisher.send(event)
    stop = threading.Event()
    options = WorkerOptions(heartbeat_interval_s=0.2, flush_interval_s=0.2)
    threads = []
    intake = intake_worker(cluster, topics, tmp_path / "intake", options)
    threads.append(threading.Thread(target=intake.run, args=(stop,)))
    for side in SIDES:
        processor = Processor(bundle, side, topics, "g1", PARTITIONS, tmp_path / "state")
        threads.append(threading.Thread(target=side_worker(processor, cluster, options).run, args=(stop,)))
    copy = ServingCopy.open(bundle, Generation.load(tmp_path / "g1", name="g1"), tmp_path / "vectors")
    replica = Replica(cluster, topics, copy)
    threads.append(threading.Thread(target=replica.run, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        users = {b.user for b in history.behaviours} | {p.user for p in history.profiles}
        wait_for(lambda: replica.status().caught_up and replica.status().rows["user"] >= len(users), "the users' rows")
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        copy.close()
    read = tail.read(cluster, topics.vectors("g1", "user"), dict.fromkeys(range(PARTITIONS), 0))
    assert {m.key() for m in read} - {HEARTBEAT_KEY} >= {user.encode() for user in users}
    assert deadletters.count(cluster, topics) == {}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_the_other_mechanisms(mechanism: str, secured: SecuredKafka) -> None:
    """Both client libraries."""
    cluster = secured.sasl(mechanism=mechanism)
    ensure(cluster, Topics("m."), generation=None, partitions=1)
    assert list(tail.read(cluster, "m.behaviour", {0: 0})) == []


def test_certificates_on_both_sides(secured: SecuredKafka) -> None:
    """Instead of a password."""
    ensure(secured.mutual(), Topics("c."), generation=None, partitions=1)
    assert list(tail.read(secured.mutual(), "c.behaviour", {0: 0})) == []


REFUSED: dict[str, tuple[Callable[[SecuredKafka], Cluster], str]] = {
    "password": (lambda k: k.sasl(password=Secret(WRONG)), "where we say who we are"),
    "user": (lambda k: k.sasl(user="nobody"), "where we say who we are"),
    "authority": (lambda k: k.sasl(ca=k.stranger_ca), "its certificate is not trusted"),
    "system": (lambda k: k.sasl(ca=None), "kafka_ca"),
    "certificate": (lambda k: k.mutual(certificate=None, key=None), "ask for this client's certificate"),
    "plaintext": (lambda k: Cluster(k.sasl().bootstrap), "it speaks TLS at this address"),
    "open port": (lambda k: Cluster(k.bootstrap, "SSL", ca=k.ca), "it does not speak TLS at this address"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_why_and_no_secret(case: str, secured: SecuredKafka) -> None:
    """Within some seconds, before anything is begun."""
    make, words = REFUSED[case]
    with pytest.raises(BrokerUnavailable, match=words) as raised:
        describe(make(secured), ["behaviour"])
    assert not any(secret in str(raised.value) for secret in (PASSWORD, WRONG))


def test_a_publisher_s_own_options_are_judged_as_they_are(secured: SecuredKafka) -> None:
    """Given to the library, and not by a Cluster: it is not told to use TLS where it does."""
    wrong = secured.sasl(password=Secret(WRONG))
    with pytest.raises(BrokerUnavailable, match="where we say who we are") as raised:
        EventPublisher(wrong.bootstrap, **wrong.for_kafka_python())
    assert WRONG not in str(raised.value)


def test_a_key_that_its_password_does_not_open_is_named(secured: SecuredKafka, tmp_path: Path) -> None:
    """Without the password."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(secured.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    right = BestAvailableEncryption(PASSWORD.encode())
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, right))
    ensure(secured.mutual(key=locked, key_password=Secret(PASSWORD)), Topics("k."), generation=None, partitions=1)
    with pytest.raises(ConfigError, match="the key's password") as raised:
        describe(secured.mutual(key=locked, key_password=Secret(WRONG)), ["k.behaviour"])
    assert WRONG not in str(raised.value)


def test_offsets_that_a_broker_keeps_back_are_not_taken_for_none(
    secured: SecuredKafka, topics: Topics, wait_for: Callable[..., None]
) -> None:
    """A group that has come far would begin again, and be set back: an answer about one partition may be an error."""
    cluster = secured.sasl()
    ensure(cluster, topics, generation="g1", partitions=PARTITIONS)
    consumer = Consumer(asking_consumer(cluster, committed=True) | {"group.id": topics.intake_group})
    try:
        assert committed(consumer, topics.behaviour, 0) is None
        consumer.commit(offsets=[TopicPartition(topics.behaviour, 0, 7)], asynchronous=False)
        assert committed(consumer, topics.behaviour, 0) == 7
        secured.refuse(topics.behaviour)
        with pytest.raises(BrokerUnavailable, match="authorization"):
            wait_for(lambda: committed(consumer, topics.behaviour, 0, 1.0) is None, "what must not come")
    finally:
        consumer.close()


@pytest.fixture
def command(secured: SecuredKafka, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`forebay WORDS` in a folder whose forebay.toml names the broker and a file of the password."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "forebay.toml").write_text(
        f'bootstrap = "{secured.sasl().bootstrap}"\nkafka_protocol = "SASL_SSL"\nkafka_ca = "{secured.ca}"\n'
        f'kafka_user = "{USER}"\nkafka_password_file = "password"\ntopic_prefix = "v."\n'
    )

    wide = {"COLUMNS": "400"}  # a table that a long tmp_path makes too wide is told otherwise

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "forebay.cli", *words], cwd=tmp_path, env=os.environ | wide | environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert PASSWORD not in done.stdout + done.stderr
        return done

    return run


def test_the_commands_get_in_and_show_no_secret(
    command: Callable[..., Any], tmp_path: Path, make_history: Callable[..., History]
) -> None:
    """Settings from a file, the password from a file of its own or from the environment."""
    events = make_history(20, until_ms=time.time_ns() // 1_000_000).behaviours
    (tmp_path / "events.jsonl").write_bytes(b"".join(encode(e) + b"\n" for e in events))
    assert command("topics", "create").returncode == 0
    published = command("publish", "events.jsonl")
    assert published.returncode == 0, published.stderr
    asked = command("doctor").stdout
    assert f"Kafka {VERSION[:3]} answers at" in asked and "lose the end" not in asked
    told = command("deadletters", "list")
    assert told.returncode == 0, told.stderr
    shown = command("config", FOREBAY_KAFKA_PASSWORD=PASSWORD).stdout
    assert "kafka_password  " in shown and "***" in shown
    twice = command("topics", "list", FOREBAY_KAFKA_PASSWORD=PASSWORD)
    assert twice.returncode == 2 and "kafka_password is given twice" in twice.stderr
    (tmp_path / "forebay.toml").write_text((tmp_path / "forebay.toml").read_text().replace("kafka_password_file", "#"))
    assert command("topics", "list").returncode == 2
    assert command("topics", "list", FOREBAY_KAFKA_PASSWORD=PASSWORD).returncode == 0
