"""The librdkafka transport keeps the contract, on a real broker."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from forebay.errors import BrokerError, BrokerUnavailable, Fenced, TransactionLost
from forebay.streams.connection import connected
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, describe, ensure
from forebay.streams.transports.librdkafka.follower import Follower
from forebay.streams.transports.librdkafka.groups import members
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.transports.librdkafka.transactions import TransactionLog
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.source import Source
from forebay.streams.worker.transport import Transport

from .contract import PARTITIONS, Ear, Taking, TransportContract

pytestmark = pytest.mark.broker


class KafkaPlace:
    """Topics of their own on the run's broker."""

    def __init__(
        self, kafka: DevKafka, topics: Topics, publish: Callable[..., None], read: Callable[..., list[Any]],
        seats: Path,
    ) -> None:  # fmt: skip
        self.topics, self.moment, self._seats = topics, 0, seats
        self._kafka, self._publish, self._read = kafka, publish, read
        with connected("KafkaAdminClient", kafka.bootstrap) as admin:
            wide = {"num_partitions": 1, "replication_factor": 1}
            admin.create_topics({topics.item_updates: wide})
            admin.wait_for_topics([topics.item_updates])
        ensure(kafka.bootstrap, topics, generation="g1", partitions=PARTITIONS)
        info = describe(kafka.bootstrap, [*topics.sources, topics.catalogue])
        places = [Source(one.name, p, one.topic_id) for one in info.values() for p in range(one.partitions)]
        self._numbered = [place for place in places if place.topic != topics.catalogue]
        self.followed = [place for place in places if place.topic == topics.catalogue]

    def as_of(self) -> int:
        """The moment, for whoever asks for ends."""
        return self.moment

    def close(self) -> None:
        """Nothing is left open."""

    def transport(self, slot: str = "0", *, follows: bool = True) -> LibrdkafkaTransport:
        options = WorkerOptions(slot=slot, heartbeat_interval_s=0.2, session_timeout_ms=3000)
        return LibrdkafkaTransport(self.membership(options, follows=follows))

    def membership(self, options: WorkerOptions, *, follows: bool) -> Membership:
        return Membership(
            self._kafka.bootstrap, self._numbered, f"{self.topics.prefix}group", options, "test", self,
            follows=self.followed if follows else (), seats=self._seats,
        )  # fmt: skip

    def append(self, partition: int, values: Sequence[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        producer, source = Producer({"bootstrap.servers": self._kafka.bootstrap}), self._numbered[partition]
        for value in values:
            producer.produce(source.topic, value, b"u1", source.partition, headers=list(headers))
        assert producer.flush(30) == 0

    def committed(self, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
        partitions = range(1 if topic == self.topics.dead_letters else PARTITIONS)
        return [(m.partition(), m.key(), m.value()) for m in self._read(topic, dict.fromkeys(partitions, 0))]

    def notes(self) -> dict[int, str | None]:
        consumer = Consumer({"bootstrap.servers": self._kafka.bootstrap, "group.id": f"{self.topics.prefix}group"})
        try:
            found = consumer.committed([TopicPartition(s.topic, s.partition) for s in self._numbered], 10)
        finally:
            consumer.close()
        return {n: tp.metadata or "" for n, tp in enumerate(found) if tp.offset >= 0}

    def delete_before(self, partition: int, offset: int) -> None:
        from kafka import TopicPartition as Place

        with connected("KafkaAdminClient", self._kafka.bootstrap) as admin:
            admin.delete_records({Place(self.topics.behaviour, partition): offset})


class TestLibrdkafka(TransportContract):
    @pytest.fixture
    def place(
        self, kafka: DevKafka, topics: Topics, publish: Callable[..., None], read: Callable[..., list[Any]],
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> KafkaPlace:  # fmt: skip
        """Empty topics, and seats on one machine. Who is in a slot is waited for a second, beyond its sessions."""
        monkeypatch.setattr("forebay.streams.transports.librdkafka.transport.PATIENCE_S", 1.0)
        return KafkaPlace(kafka, topics, publish, read, tmp_path)

    def test_a_reader_that_falls_back_delivers_nothing_twice(self, place: KafkaPlace, taking: Taking) -> None:
        """librdkafka's does, where it was moved while it looked for the beginning of its partition: a batch then had
        the log's last records and its first ones in it, and the group's offset was set back with them."""
        place.append(0, [b"a", b"b", b"c", b"d", b"e"])
        transport = taking.owning()
        assert isinstance(transport, LibrdkafkaTransport)
        transport.go_on(0, 2, taking.stop)
        taking.until(lambda: taking.read[0] == [2, 3, 4])
        transport._consumer.seek(TopicPartition(place.topics.behaviour, 0, 0))
        for _ in range(10):
            taking.poll()
        place.append(0, [b"f"])
        taking.until(lambda: len(taking.read[0]) > 3)
        assert taking.read[0] == [2, 3, 4, 5]

    def test_a_slot_that_only_an_earlier_request_of_its_own_took_is_taken_anew(
        self, kafka: DevKafka, place: KafkaPlace, taking: Taking
    ) -> None:
        """What a frozen broker was asked before may be heard last, and fences who asked: no other worker is there, and
        no process has to end for it."""
        transport = taking.owning()
        TransactionLog(kafka.bootstrap, "a ghost", transactional_id=f"{transport.group}.0", timeout_ms=10_000)
        transport.submit([], {0: 0}, {}, 0)
        with pytest.raises(TransactionLost, match="where nobody else is in it"):
            transport.settle(taking.stop)
        transport.abandon()
        transport.take(taking.stop)
        transport.submit([], {0: 0}, {}, 0)
        assert transport.settle(taking.stop) and transport.committed(0) == 0

    def test_a_slot_that_another_worker_took_is_not_taken_back(
        self, kafka: DevKafka, place: KafkaPlace, taking: Taking
    ) -> None:
        """The other one is waited for as long as a killed one's membership lasts: it may be nobody."""
        transport = taking.owning()
        mine = members(kafka.bootstrap, transport.group)
        with _namesake(kafka, place, transport):
            deadline = time.monotonic() + 30
            while members(kafka.bootstrap, transport.group) == mine:
                assert time.monotonic() < deadline
            TransactionLog(kafka.bootstrap, "another", transactional_id=f"{transport.group}.0", timeout_ms=10_000)
            transport.submit([], {0: 0}, {}, 0)
            with pytest.raises(TransactionLost):
                transport.settle(taking.stop)
            transport.abandon()
            with pytest.raises(Fenced, match="Give each worker process a --slot of its own"):
                transport.take(taking.stop)

    def test_a_member_that_only_a_ghost_of_its_name_fenced_comes_back(
        self, kafka: DevKafka, place: KafkaPlace, taking: Taking
    ) -> None:
        """A request to join that a frozen broker hears last makes a member that nobody is. Its session ends, and the
        worker is a member again: what it had was lost meanwhile."""
        place.append(0, [b"a", b"b"])
        transport = taking.owning()
        transport.go_on(0, 0, taking.stop)
        taking.until(lambda: taking.read[0] == [0, 1])
        owned = taking.open["first"][1].owned
        with _namesake(kafka, place, transport):
            with pytest.raises(BrokerUnavailable, match="another member of this name"):
                taking.until(lambda: False)
            assert not owned and taking.said[-1][1] == "lost"
            assert transport.poll(100, 0.05).batches == () and not owned
        taking.until(lambda: owned == set(range(PARTITIONS + 1)))
        transport.submit([], {0: 1}, {}, 0)
        assert transport.settle(taking.stop) and transport.committed(0) == 1
        transport.go_on(0, 1, taking.stop)
        taking.until(lambda: taking.read[0] == [0, 1, 1])

    def test_a_commit_beside_a_ghost_of_its_name_is_aborted(
        self, kafka: DevKafka, place: KafkaPlace, taking: Taking
    ) -> None:
        """It comes before the consumer hears of the ghost, and whether another worker is there is not known by then."""
        transport = taking.owning()
        owned = taking.open["first"][1].owned
        with _namesake(kafka, place, transport):
            deadline = time.monotonic() + 30
            with pytest.raises(BrokerError, match="a transaction was aborted") as error:
                while time.monotonic() < deadline:  # the ghost takes a moment to join
                    transport.submit([], {0: 1}, {}, 0)
                    transport.settle(taking.stop)
            assert error.type is BrokerError
            with pytest.raises(BrokerUnavailable, match="another member of this name"):
                taking.until(lambda: False)
        taking.until(lambda: owned == set(range(PARTITIONS + 1)))
        transport.submit([], {0: 1}, {}, 0)
        assert transport.settle(taking.stop) and transport.committed(0) == 1

    def test_a_member_whose_slot_somebody_else_keeps_is_refused_by_name(
        self, kafka: DevKafka, place: KafkaPlace, taking: Taking, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("forebay.streams.transports.librdkafka.transport.PATIENCE_S", 0.0)
        transport = taking.owning()
        with _namesake(kafka, place, transport):
            with pytest.raises(BrokerUnavailable, match="another member of this name"):
                taking.until(lambda: False)
            with pytest.raises(Fenced, match="Give each worker process a --slot of its own"):
                taking.until(lambda: False)

    def test_a_batch_waits_for_company_while_it_could_not_be_committed(
        self, place: KafkaPlace, taking: Taking, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Behind a commit that usually takes two seconds, up to the bound of a hold. Not where none is under way, or
        where to apply the batch takes longer."""
        transport, plain = taking.owning(), TransactionLog.commit

        def slowly(log: TransactionLog, *given: Any) -> None:
            time.sleep(2.0)
            plain(log, *given)

        def waited(ahead_s: float, *, behind: bool) -> float:
            if behind:
                transport.submit([], {0: 0}, {}, 0)
            place.append(0, [b"a"])
            deadline, polled = time.monotonic() + 30, None
            while polled is None or not polled.batches:  # a poll may bring the partition's end alone
                assert time.monotonic() < deadline
                started = time.monotonic()
                polled = transport.poll(100, 10.0, 0.0, ahead_s)
            took = time.monotonic() - started
            transport.settle(taking.stop)
            return took

        monkeypatch.setattr(TransactionLog, "commit", slowly)
        monkeypatch.setattr("forebay.streams.transports.librdkafka.grouplog.MOST_HOLD_S", 1.5)
        transport.submit([], {0: 0}, {}, 0)
        assert transport.settle(taking.stop)
        transport.go_on(0, 0, taking.stop)
        waited(0.0, behind=False)  # the first fetch of a partition takes as long as it likes
        held = waited(0.0, behind=True)
        assert held >= 1.5 - 0.001  # librdkafka waits for whole milliseconds, rounded down
        assert waited(0.0, behind=False) < held
        assert waited(5.0, behind=True) < held

    def test_a_start_that_was_told_to_stop_joins_nothing(self, kafka: DevKafka, place: KafkaPlace) -> None:
        """Somebody else may be in its slot: a member of that name would fence them."""
        transport, stop = place.transport(), threading.Event()
        stop.set()
        transport.join(Ear("late", []), stop)
        for _ in range(20):  # its own thread joins within a second, where it was told to
            assert not members(kafka.bootstrap, transport.group)
            time.sleep(0.2)
        transport.close()

    def test_a_batch_is_of_about_a_megabyte_however_large_the_records_are(
        self, place: KafkaPlace, taking: Taking
    ) -> None:
        """For either way of reading: thousands of Blocks would be gigabytes."""
        place.append(0, [b"x" * 100_000] * 60)
        transport = taking.owning()
        gap = [b for b in transport.read(0, 0, 60, 4096, taking.stop) if b is not None]
        assert [o for b in gap for o in b.offsets] == list(range(60)) and max(len(b.offsets) for b in gap) < 20
        transport.go_on(0, 0, taking.stop)
        sizes = []
        while len(taking.read[0]) < 60:
            sizes += [len(b.offsets) for polled in taking.poll(4096) for b in polled.batches]
        assert max(sizes) < 20

    def test_a_transaction_that_is_open_is_waited_for_with_a_bound(
        self, kafka: DevKafka, place: KafkaPlace, taking: Taking
    ) -> None:
        """It began before: what it may commit is asked for. A broker that ends none of them is told of by name."""
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{place.topics.prefix}open"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(place.topics.catalogue, b"late", b"i1", 1)
        assert producer.flush(30) == 0
        follower = Follower(kafka.bootstrap, place.followed, silence_s=1.0)
        follower.start()
        try:
            with pytest.raises(BrokerUnavailable, match="end was not reached"):
                list(follower.catch_up(taking.stop))
            producer.commit_transaction(30)
            found = [batch for batches in follower.catch_up(taking.stop) for batch in batches]
            assert [(b.partition, list(b.values)) for b in found] == [(1, [b"late"])]
        finally:
            follower.close()


@contextmanager
def _namesake(kafka: DevKafka, place: KafkaPlace, transport: Transport) -> Iterator[None]:
    """A consumer that joins as the static member of slot 0 and goes without a word, as long as the block runs."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap, "group.id": transport.group, "client.id": f"{transport.group}.0",
            "group.instance.id": f"{transport.group}.0", "session.timeout.ms": 3000, "log_level": 0,
            "partition.assignment.strategy": "cooperative-sticky", "heartbeat.interval.ms": 500,
        }
    )  # fmt: skip
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            consumer.poll(0.1)

    try:
        consumer.subscribe([place.topics.behaviour, place.topics.item_updates])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(poll)
            try:
                yield
            finally:
                over.set()
    finally:
        consumer.close()  # a static member is missed when its session ends


def test_a_broker_that_does_not_answer_is_no_end_of_a_followed_topic() -> None:
    """A clear error in bounded time: nobody listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        follower = Follower(f"127.0.0.1:{taken.getsockname()[1]}", [Source("catalogue", 0, "x")], answer_s=0.5)
        follower.start()
        started = time.monotonic()
        try:
            with pytest.raises(BrokerUnavailable):
                list(follower.catch_up(threading.Event()))
        finally:
            follower.close()
        assert time.monotonic() - started < 10
