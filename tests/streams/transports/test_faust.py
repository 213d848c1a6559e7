"""The faust transport keeps the contract, on a real broker and in a running app."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from forebay.errors import BrokerError, ConfigError, HookMissing
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics
from forebay.streams.transports.faust import hooks
from forebay.streams.transports.faust.consumer import MOST_FETCH
from forebay.streams.transports.faust.identity import Identity
from forebay.streams.transports.faust.transport import FaustTransport
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions

from ..faustapp import RunningApp
from .contract import PARTITIONS, Ear, Taking, TransportContract
from .test_librdkafka import KafkaPlace

pytestmark = pytest.mark.broker


class FaustPlace(KafkaPlace):
    """The same topics, read by consumers of an app."""

    def __init__(self, host: RunningApp, *given: Any) -> None:
        super().__init__(*given)
        self._host = host

    def transport(self, slot: str = "0", *, follows: bool = True) -> FaustTransport:  # type: ignore[override]
        options = WorkerOptions(slot=slot, heartbeat_interval_s=0.2, session_timeout_ms=3000)
        transport = FaustTransport(self._host.app, self.membership(options, follows=follows))

        async def start() -> None:
            await self._host.app.add_runtime_dependency(transport.carrier())

        self._host.call(start())
        return transport


@pytest.fixture(scope="module")
def host(kafka: DevKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app without streams of its own."""
    with RunningApp(kafka.bootstrap, tmp_path_factory.mktemp("app")) as host:
        yield host


class TestFaust(TransportContract):
    tells_shares = False

    @pytest.fixture
    def place(
        self,
        host: RunningApp,
        kafka: DevKafka,
        topics: Topics,
        publish: Callable[..., None],
        read: Callable[..., list[Any]],
        tmp_path: Path,
    ) -> FaustPlace:
        """Empty topics."""
        return FaustPlace(host, kafka, topics, publish, read, tmp_path)

    def test_what_a_member_does_that_its_group_gave_up_is_refused(
        self, host: RunningApp, place: FaustPlace, taking: Taking
    ) -> None:
        """A paused process wakes up and is a member again before its worker has heard that it was none: what the worker
        commits is of a state that may be behind."""
        first = taking.owning()
        assert isinstance(first, FaustTransport) and first._service is not None
        first.submit([], {0: 1}, {}, 1)
        assert first.settle(taking.stop)
        paused, ear = taking.open.pop("first")
        first._service.thread_loop.call_soon_threadsafe(time.sleep, 6.0)  # twice a session
        second, other = taking.join("second", slot="1")
        taking.until(lambda: other.owned == set(range(PARTITIONS + 1)))
        second.take(taking.stop)
        second.submit([], {0: 5}, {}, 4)
        assert second.settle(taking.stop)
        member = first._member
        taking.until(lambda: member.identity.life == 1 and member.identity.generation > 0)
        first.submit([], {0: 2}, {}, 1)
        with pytest.raises(BrokerError):
            first.settle(taking.stop)
        assert second.committed(0) == 5
        taking.open["first"] = (paused, ear)
        taking.until(lambda: ("first", "lost", (0, 1, 2)) in taking.said)
        lost = taking.said.index(("first", "lost", (0, 1, 2)))
        assert not any(who == "first" and what == "revoked" for who, what, _ in taking.said[:lost])
        first.submit([], {}, {}, 0)
        assert first.settle(taking.stop)

    def test_what_waits_to_be_taken_is_bounded(self, place: FaustPlace, taking: Taking) -> None:
        """However much there is: one answer of the broker for a partition, and no further one before it is taken."""
        place.append(0, [b"x" * 100_000] * 40)
        transport = taking.owning()
        assert isinstance(transport, FaustTransport) and transport._service is not None
        carried = transport._service.carried
        transport.go_on(0, 0, taking.stop)
        taking.until(lambda: bool(taking.read[0]))
        taken = len(taking.read[0])
        waited = []
        for _ in range(20):
            time.sleep(0.05)
            waited += [
                found._partition_records._records.size_in_bytes() for found in carried._fetcher._records.values()
            ]
        assert waited and max(waited) <= MOST_FETCH + 100_000
        assert len(taking.read[0]) == taken
        sizes = []
        while len(taking.read[0]) < 40:
            sizes += [len(b.offsets) for polled in taking.poll(4096) for b in polled.batches]
        assert taking.read[0] == list(range(40)) and max(sizes) < 25

    def test_what_no_transaction_has_committed_is_not_read(
        self, kafka: DevKafka, place: FaustPlace, taking: Taking
    ) -> None:
        """An app of faust reads uncommitted records by default: an aborted Block would be counted, and again with the
        next try."""
        transport = taking.owning()
        transport.go_on(0, 0, taking.stop)
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{place.topics.prefix}bad"})
        producer.init_transactions(30)
        for _ in range(2):
            producer.begin_transaction()
            producer.produce(place.topics.behaviour, b"aborted", b"u1", 0)
            assert producer.flush(30) == 0
            for _ in range(10):
                taking.poll()
            producer.abort_transaction(30)
        place.append(0, [b"committed"])
        found: list[Any] = []
        while not found:
            found += [value for polled in taking.poll() for batch in polled.batches for value in batch.values]
        assert found == [b"committed"] and len(taking.read[0]) == 1

    def test_members_of_two_transports_are_not_in_one_group(
        self, kafka: DevKafka, place: FaustPlace, taking: Taking
    ) -> None:
        """Each would take the other's partitions for free. The second one ends, and says what to do."""
        other = KafkaPlace.transport(place, "1")
        assert isinstance(other, LibrdkafkaTransport)
        ear = Ear("librdkafka", taking.said)
        taking.open["librdkafka"] = (other, ear)
        other.join(ear, taking.stop)
        taking.until(lambda: bool(ear.owned))
        taking.join("faust")
        with pytest.raises(ConfigError, match="members of another transport"):
            taking.until(lambda: False)

    def test_a_batch_of_a_partition_that_goes_is_committed_before_it_is_given_away(
        self, place: FaustPlace, taking: Taking
    ) -> None:
        """A rebalance does not wait for the worker, and the next owner does."""
        place.append(0, [b"a"])
        first = taking.owning()
        _, ear = taking.open["first"]
        taking.join("second", slot="1")
        assert isinstance(first, FaustTransport)
        second, other = taking.open["second"]
        deadline = time.monotonic() + 30
        while not any(news.kind == "revoked" for news in first._member.news):
            assert time.monotonic() < deadline
            second.poll(100, 0.05)
        (goes,) = next(news for news in first._member.news if news.kind == "revoked").partitions
        first.submit([], {goes: 1}, {}, 1)
        assert first.settle(taking.stop)
        for _ in range(20):
            second.poll(100, 0.05)
        assert not other.owned and ear.owned == {0, 1, 2}
        taking.until(lambda: other.owned == {goes})
        assert second.committed(goes) == 1


def test_a_group_s_metadata_are_what_librdkafka_writes_of_its_own_members(
    kafka: DevKafka, there: Topics, wait_for: Callable[..., None]
) -> None:
    """The fence hangs on these bytes: a version that writes others is refused at the start."""
    group = f"{there.prefix}group"
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    try:
        consumer.subscribe([there.behaviour])
        wait_for(lambda: consumer.poll(0.2) is None and consumer.assignment(), "an assignment")
        assert consumer.consumer_group_metadata() == Identity(0, 1, consumer.memberid()).metadata(group)
    finally:
        consumer.close()


class TestHooks:
    def test_what_is_installed_here_has_them_all(self) -> None:
        """Else none of this file would pass, and this says why."""
        hooks.check()

    @pytest.mark.parametrize(
        ("where", "name"),
        [
            ("faust.transport.drivers.aiokafka.AIOKafkaConsumerThread", "_create_consumer"),
            ("aiokafka.consumer.group_coordinator.GroupCoordinator", "request_rejoin"),
        ],
    )
    def test_a_hook_that_moved_is_refused_by_name(self, where: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before anything is joined."""
        monkeypatch.delattr(f"{where}.{name}")
        with pytest.raises(HookMissing, match=f"no {name}") as caught:
            hooks.check()
        assert "forebay[faust]" in str(caught.value) and caught.value.exit_code == 2

    def test_another_version_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where every name is still there: what it does may be something else."""
        monkeypatch.setattr(hooks, "version", lambda name: {"aiokafka": "0.14.0"}.get(name, "0.15.4"))
        with pytest.raises(HookMissing, match=r"faust-streaming 0\.15\.4"):
            hooks.check()

    def test_bytes_that_librdkafka_writes_otherwise_are_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A producer would be refused each commit, or fence nobody."""
        monkeypatch.setattr(Identity, "metadata", lambda *_: b"CGMDv3:")
        with pytest.raises(HookMissing, match="librdkafka"):
            hooks.check()
