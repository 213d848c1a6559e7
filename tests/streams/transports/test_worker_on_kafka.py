"""A worker against a real broker: from events to vectors, each once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebay.clock import HOUR_MS
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, decode, encode
from forebay.segments import lint
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER, TICK
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.segments.spec import SIDES, SegmentSpec, Side
from forebay.segments.state.ids import Ids
from forebay.store.codec import HEARTBEAT_KEY, codec_of, unpack_heartbeat
from forebay.store.partitionstore import PartitionStore
from forebay.streams.deadletters import read as read_letters
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics, describe, ensure
from forebay.streams.transports.librdkafka.start import CLOCK_MARGIN_MS, side_worker
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.source import Source
from forebay.telemetry import add_hook

from .conftest import BRISK, PARTITIONS

pytestmark = pytest.mark.broker


def test_all_stages_from_events_to_vectors(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, work: Callable[..., Any],
    publish: Callable[..., None],
    lag: Callable[..., int], newest: Callable[..., Any], wait_for: Callable[..., None],
    now_history: Callable[..., History],
    arrivals: Callable[..., list[Event]], stored: Callable[..., Any], clean: Callable[..., Any]) -> None:  # fmt: skip
    """Events are in both clean logs once, and become vectors of both sides; offsets are committed; what is emitted is
    what is stored, and as of now."""
    history = now_history(1500)
    publish(there.behaviour, arrivals(history))
    publish(there.behaviour, [(b"u1", b"not JSON"), (b"u1", None)])
    publish(there.item_updates, history.items)
    now = time.time_ns() // 1_000_000
    with (
        work(there, "intake", tmp_path) as intake,
        work(there, "user", tmp_path) as user,
        work(there, "item", tmp_path) as item,
    ):
        reading = [(topic, intake) for topic in there.sources]
        for topic, one in [*reading, (there.events("user"), user), (there.events("item"), item)]:
            wait_for(lambda: lag(topic, one.group, PARTITIONS) == 0 or one.ended, topic)  # noqa: B023
        for side in (user, item):  # what is applied is what was sent until now, and every row may say so
            wait_for(lambda: min(p.meta.as_of for p in side.stage.partitions.values()) > now, "a claim of now")  # noqa: B023
        publish(there.behaviour, history.behaviours[:1])  # a duplicate: it changes no row

    for side in SIDES:
        counted = Counter((e.user, e.item, e.id) for e in clean(there, side) if isinstance(e, Behaviour))
        assert counted == Counter((b.user, b.item, b.id) for b in history.behaviours)
    assert Counter(d.reason for d in read_letters(kafka.bootstrap, there)) == {"undecodable": 1, "empty": 1}
    entities = {
        "user": {b.user for b in history.behaviours} | {p.user for p in history.profiles},
        "item": {b.item for b in history.behaviours} | {u.item for u in history.items},
    }
    for side in SIDES:
        left, emitted = stored(bundle, tmp_path, side), newest(there.vectors("g1", side), PARTITIONS)
        assert set(left) == set(emitted) == entities[side]
        rows, _ = codec_of(bundle, side).unpack(list(emitted.values()))
        for slot in codec_of(bundle, side).segments:
            assert rows["segments"][slot.name]["as_of"].max() <= time.time_ns() // 1_000_000


def test_a_second_run_finds_nothing_to_do(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], now_history: Callable[..., History],
    vectors: Callable[..., Any], heartbeats: Callable[..., Any]) -> None:  # fmt: skip
    """Offsets are in the group and in the store: no event is read twice, and no vectors are sent again."""
    feed(there, "user", now_history(200).behaviours)
    with work(there, "user", tmp_path) as first:
        wait_for(lambda: lag(there.events("user"), first.group, PARTITIONS) == 0, "the events")
    before, beats = len(vectors()), heartbeats()
    assert before
    with work(there, "user", tmp_path) as second:
        wait_for(lambda: all(m > beats[p] for p, m in heartbeats().items()), "heartbeats")
        assert not second.ended
    assert len(vectors()) == before


def test_what_had_waited_is_told_with_where_its_partition_stands(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, worked: Callable[..., None],
    work: Callable[..., Any], wait_for: Callable[..., None], vectors: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It comes without an event, and a worker that has lost the partition is refused for its offsets alone: without
    them its old vectors would be taken."""
    from forebay.streams.transports.librdkafka.transactions import TransactionLog

    worked(200)
    processor, stood = Processor(bundle, "user", there, "g1", PARTITIONS, tmp_path), {}
    topic_id = describe(kafka.bootstrap, [processor.topic])[processor.topic].topic_id
    for partition in range(PARTITIONS):  # as if it had been flushed before its vectors were made
        owned = processor.open(partition, Source(processor.topic, partition, topic_id), 0, create=False)
        rows = owned.rows_of(Ids.of_bytes([name for name, _ in owned.store.scan()][:3]))
        owned.pending[rows] = owned._here.changed[rows] = 1
        stood[partition] = owned.meta.offset
        owned.flush()
        processor.close(partition)
    commit, spoken, before = TransactionLog.commit, [], len(vectors())

    def noted(self: TransactionLog, records: Any, offsets: Any, group: Any) -> None:
        told = {r.partition for r in records if r.topic == there.vectors("g1", "user") and r.key != HEARTBEAT_KEY}
        spoken.append((told, {o.partition: o.offset for o in offsets}))
        commit(self, records, offsets, group)

    monkeypatch.setattr(TransactionLog, "commit", noted)
    with work(there, "user", tmp_path) as second:
        wait_for(lambda: second.ended or len(vectors()) == before + 6, "what had waited")
    assert [told for told in spoken if told[0]]
    for partitions, offsets in spoken:
        assert offsets == {p: stood[p] for p in partitions}


def test_a_stop_in_the_middle_of_a_restore_tells_nothing(
    there: Topics, tmp_path: Path, work: Callable[..., Any], feed: Callable[..., None], lag: Callable[..., int],
    wait_for: Callable[..., None], now_history: Callable[..., History], whole: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Half a state is older than the vectors in the log, and its offset older than the group's."""
    feed(there, "user", now_history(300).behaviours)
    with work(there, "user", tmp_path / "a") as first:
        wait_for(lambda: lag(there.events("user"), first.group, PARTITIONS) == 0, "the events")
    read, before = LibrdkafkaTransport.read, len(whole(there.vectors("g1", "user")))

    def stopped_half_way(
        self: LibrdkafkaTransport, partition: int, start: int, end: int, most: int, stop: threading.Event
    ) -> Any:
        yield from read(self, partition, start, end // 2, most, stop)
        stop.set()

    monkeypatch.setattr(LibrdkafkaTransport, "read", stopped_half_way)
    always = WorkerOptions(heartbeat_interval_s=0.01)  # so that a heartbeat is due in the very turn of the stop
    with work(there, "user", tmp_path / "b", options=always) as second:
        wait_for(lambda: second.ended, "the stop")
    assert lag(there.events("user"), second.group, PARTITIONS) == 0
    assert len(whole(there.vectors("g1", "user"))) == before


@pytest.mark.parametrize("side", SIDES)
def test_an_idle_partition_is_not_old(
    side: Side, kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], wait_for: Callable[..., None],
    whole: Callable[..., list[Any]],
) -> None:  # fmt: skip
    """Heartbeats go on without events, for every partition, as far as the Intake says that there are none: never ahead
    of the clock, and young enough for the default bound."""

    def beats() -> list[tuple[int, int, int]]:
        """Partition, moment claimed and moment written (ms) of each heartbeat."""
        found = [m for m in whole(there.vectors("g1", side)) if m.key() == HEARTBEAT_KEY]
        return [(m.partition(), unpack_heartbeat(m.value()), m.timestamp()[1]) for m in found]

    def young(partition: int) -> bool:
        return any(p == partition and of > started and said - of < lint.SHOWN_AGE_MS for p, of, said in beats())

    usual = WorkerOptions()
    with work(there, "intake", tmp_path, options=usual), work(there, side, tmp_path, options=usual):
        wait_for(lambda: {p for p, _, _ in beats()} == set(range(PARTITIONS)), "the first heartbeats")
        started = time.time_ns() // 1_000_000 + 3000  # the tick of the hour is a record like any, and long over by then
        wait_for(lambda: all(young(p) for p in range(PARTITIONS)), "a young heartbeat of each idle partition", 40)
    assert all(of <= said for _, of, said in beats())


def test_the_default_bounds_agree_with_what_a_heartbeat_can_show() -> None:
    """The Intake asks and notes, a side's worker asks and tells, each once a second; and the margin."""
    options = WorkerOptions()
    shown = 4 * options.heartbeat_interval_s * 1000 + CLOCK_MARGIN_MS
    assert shown < lint.SHOWN_AGE_MS < SegmentSpec.late_after_ms


def test_the_intake_sends_a_tick_of_the_hour_to_every_partition_of_both_logs(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], wait_for: Callable[..., None],
    whole: Callable[..., Any], heartbeats: Callable[..., Any],
) -> None:  # fmt: skip
    """Once while it runs, however many heartbeats pass; and the sides' clocks are moved by it."""
    begun = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS

    def ticks(side: Side) -> Counter[tuple[int, int]]:
        found = Counter[tuple[int, int]]()
        for message in whole(there.events(side)):
            block = Block.decode(dict(message.headers())[HEADER], message.value())
            assert block.numbers("kind").tolist() == [TICK]
            found[message.partition(), int(block.numbers("time")[0])] += 1
        return found

    with work(there, "intake", tmp_path, options=BRISK), work(there, "user", tmp_path, options=BRISK):
        wait_for(lambda: len(heartbeats()) == PARTITIONS, "heartbeats")
        first = heartbeats()
        wait_for(lambda: all(m > first[p] + 2000 for p, m in heartbeats().items()), "several more")
    for side in SIDES:
        found = ticks(side)
        assert set(found.values()) == {1} and {p for p, _ in found} == set(range(PARTITIONS))
        assert {hour for _, hour in found} <= {begun, begun + HOUR_MS}
    for partition in range(PARTITIONS):
        with PartitionStore.open(tmp_path / f"user-{partition}", create=False) as store:
            meta = store.meta()
            assert meta is not None and meta.clock >= begun


def test_an_owner_without_state_folds_the_gap_silently_and_misses_nothing_after_it(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, worked: Callable[..., None],
    work: Callable[..., Any],
    feed: Callable[..., None], lag: Callable[..., int], wait_for: Callable[..., None],
    now_history: Callable[..., History], make_history: Callable[..., History], stored: Callable[..., Any],
    counted: Callable[[Path], Counter[str]]) -> None:  # fmt: skip
    """Even when records arrive in the very poll that gave it the partitions."""
    history = now_history(400)
    feed(there, "user", history.behaviours[:300])
    with work(there, "user", tmp_path / "first", options=BRISK) as first:
        wait_for(lambda: lag(there.events("user"), first.group, PARTITIONS) == 0, "the events")
    feed(there, "user", history.behaviours[300:])
    restored: list[dict[str, Any]] = []
    remove = add_hook(lambda name, details: restored.append(dict(details)) if name == "restored" else None)
    patient = WorkerOptions(poll_s=5.0, heartbeat_interval_s=0.2)
    with work(there, "user", tmp_path / "second", options=patient) as second:
        wait_for(lambda: lag(there.events("user"), second.group, PARTITIONS) == 0 or second.ended, "the rest")
    remove()
    assert sum(r["events"] for r in restored) >= 300
    assert counted(tmp_path / "second") == Counter(b.user for b in history.behaviours)


def test_a_transaction_that_the_broker_aborts_is_done_again(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, work: Callable[..., Any],
    feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], now_history: Callable[..., History],
    stored: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch, counted: Callable[[Path], Counter[str]]) -> None:  # fmt: skip
    """State is read again, the batch folded again, and every event counts once."""
    from confluent_kafka import KafkaError, KafkaException

    from forebay.errors import BrokerError
    from forebay.streams.transports.librdkafka.transactions import TransactionLog

    history = now_history(1000)
    feed(there, "user", history.behaviours)
    commit, tries = TransactionLog.commit, Counter[str]()

    def flaky(self: TransactionLog, records: Any, offsets: Any, group: Any) -> None:
        tries["of events"] += bool(offsets)
        if offsets and tries["of events"] in (2, 4, 5):
            try:  # a group that the broker does not know: it refuses the offsets, and the transaction is aborted
                self._producer.begin_transaction()
                self._producer.produce(there.vectors("g1", "user"), value=b"never read", key=b"u1")
                raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))
            except KafkaException as error:
                refused = self._failed(error.args[0], 0.0)
                assert type(refused) is BrokerError
                raise refused from None
        commit(self, records, offsets, group)

    monkeypatch.setattr(TransactionLog, "commit", flaky)
    small = WorkerOptions(batch_records=100, flush_batches=2, heartbeat_interval_s=0.2)
    with work(there, "user", tmp_path, options=small) as worker:
        wait_for(lambda: lag(there.events("user"), worker.group, PARTITIONS) == 0 or worker.ended, "the events")
    assert tries["of events"] > 5
    assert counted(tmp_path) == Counter(b.user for b in history.behaviours)


def test_a_commit_that_fails_during_a_rebalance_is_done_again_for_what_stays(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], feed: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], now_history: Callable[..., History],
    whole: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    counted: Callable[[Path], Counter[str]],
) -> None:  # fmt: skip
    """One partition goes to another worker while a transaction is aborted: the one that stays is read again as well."""
    from forebay.errors import BrokerError
    from forebay.streams.transports.librdkafka.transactions import TransactionLog

    history = now_history(400)
    commit, revoked = TransactionLog.commit, Worker.revoked
    under_way, going, done = threading.Event(), threading.Event(), dict[int, int]()

    def aborted_once(self: TransactionLog, records: Any, offsets: Any, group: Any) -> None:
        done.update({o.partition: o.offset for o in offsets})
        if sum(done.values()) == 200 and not under_way.is_set():  # one record for each behaviour
            under_way.set()
            assert going.wait(60)
            raise BrokerError("a transaction was aborted")
        if not under_way.is_set():
            time.sleep(1)  # so that what is fetched meanwhile, of both partitions, is the batch that is aborted
        commit(self, records, offsets, group)

    def going_now(self: Worker, *rest: Any) -> None:
        going.set()
        revoked(self, *rest)

    monkeypatch.setattr(TransactionLog, "commit", aborted_once)
    monkeypatch.setattr(Worker, "revoked", going_now)
    # Nothing but the revoke may wait for the commit under way.
    never = {"flush_batches": 1 << 30, "flush_interval_s": 1e9, "heartbeat_interval_s": 1e9}
    feed(there, "user", history.behaviours[:200])
    with work(there, "user", tmp_path / "a", options=WorkerOptions(slot="a", **never)) as first:
        wait_for(under_way.is_set, "the last commit")
        with work(there, "user", tmp_path / "b", options=WorkerOptions(slot="b", **never)) as second:
            wait_for(lambda: len(second.stage.partitions) == 1, "the second worker's partition")
            feed(there, "user", history.behaviours[200:])
            wait_for(
                lambda: lag(there.events("user"), first.group, PARTITIONS) == 0 or first.ended or second.ended, "all"
            )
            assert not first.ended and not second.ended
            (moved,) = second.stage.partitions
    users = Counter(b.user for b in history.behaviours)
    homes = dict(zip(users, partitions_of([u.encode() for u in users], PARTITIONS).tolist(), strict=True))
    have = {folder: counted(tmp_path / folder) for folder in "ab"}
    assert {user: have["b" if home == moved else "a"][user] for user, home in homes.items()} == users


def test_two_generations_fold_one_log_side_by_side(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, work: Callable[..., Any],
    feed: Callable[..., None], lag: Callable[..., int], wait_for: Callable[..., None],
    now_history: Callable[..., History], stored: Callable[..., Any], newest: Callable[..., Any],
    counted: Callable[[Path], Counter[str]],
) -> None:  # fmt: skip
    """Neither writes what the other reads: state is exact in both, and the end of one is nothing to the other."""
    ensure(kafka.bootstrap, there, generation="g2", partitions=PARTITIONS)
    history = now_history(300)
    for side in SIDES:
        log = there.events(side)
        feed(there, side, history.behaviours[:200])
        with work(there, side, tmp_path / "g1") as first:
            with work(there, side, tmp_path / "g2", generation="g2") as second:
                for one in (first, second):
                    wait_for(lambda: lag(log, one.group, PARTITIONS) == 0 or one.ended, f"{side}, both")  # noqa: B023
            feed(there, side, history.behaviours[200:])
            wait_for(lambda: lag(log, first.group, PARTITIONS) == 0 or first.ended, side)  # noqa: B023
        with work(there, side, tmp_path / "g2", generation="g2") as second:
            wait_for(lambda: lag(log, second.group, PARTITIONS) == 0 or second.ended, side)  # noqa: B023
        assert stored(bundle, tmp_path / "g1", side) == stored(bundle, tmp_path / "g2", side)
        assert set(newest(there.vectors("g1", side), PARTITIONS)) == set(newest(there.vectors("g2", side), PARTITIONS))
    assert counted(tmp_path / "g2") == Counter(b.user for b in history.behaviours)


def test_a_source_may_be_partitioned_as_it_likes(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], read: Callable[..., Any],
) -> None:  # fmt: skip
    """A producer that hashes keys otherwise, or has none: in the clean log an event lies where its entity belongs."""
    now, home = time.time_ns() // 1_000_000, int(partitions_of([b"u1"], PARTITIONS)[0])
    for partition in range(PARTITIONS):
        event = Behaviour("u1", "i1", "rate", 3.0, now, f"e{partition}")
        publish(there.behaviour, [(None, encode(event))], partition)
    with work(there, "intake", tmp_path) as worker:
        wait_for(lambda: lag(there.behaviour, worker.group, PARTITIONS) == 0 or worker.ended, "the events")
    blocks = [
        (m.partition(), Block.decode(dict(m.headers())[HEADER], m.value()))
        for m in read(there.events("user"), dict.fromkeys(range(PARTITIONS), 0))
    ]
    found = [(p, e.id) for p, block in blocks for e in events_of(block) if isinstance(e, Behaviour)]
    assert sorted(found) == [(home, "e0"), (home, "e1")]
    assert list(read_letters(kafka.bootstrap, there)) == []


def test_an_item_update_fills_behaviours_that_come_after_an_intake_was_started_anew(
    kafka: DevKafka, there: Topics, tmp_path: Path, work: Callable[..., Any], publish: Callable[..., None],
    lag: Callable[..., int], wait_for: Callable[..., None], clean: Callable[..., Any], read: Callable[..., Any],
) -> None:  # fmt: skip
    """With its stores and without: what it knows of items is the topic's. An older update that comes later changes
    nothing there, and a behaviour with item attributes keeps them."""
    now = time.time_ns() // 1_000_000
    newest = {f"i{n}": ItemUpdate(f"i{n}", {"genres": ["a", "é"], "year": 1950.0 + n}, now - n, "up") for n in range(9)}
    older = [ItemUpdate(update.item, {"year": 1.0}, now - 60_000, "old") for update in newest.values()]
    found: dict[str, Attributes] = {}
    for turn, (folder, updates) in enumerate([("a", [*newest.values()]), ("a", older), ("b", [])]):
        publish(there.item_updates, updates)
        bare = [Behaviour(f"u{n}", f"i{n}", "rate", 1.0, now, f"bare-{turn}-{n}") for n in range(10)]
        own = Behaviour("u1", "i1", "rate", 1.0, now, f"own-{turn}", {"year": 7.0})
        with work(there, "intake", tmp_path / folder) as worker:
            wait_for(lambda: lag(there.item_updates, worker.group, PARTITIONS) == 0 or worker.ended, "the updates")
            publish(there.behaviour, [*bare, own])
            wait_for(lambda: lag(there.behaviour, worker.group, PARTITIONS) == 0 or worker.ended, "the events")
        for side in SIDES:
            found = {e.id: e.item_attributes for e in clean(there, side) if isinstance(e, Behaviour)}
            for n in range(10):
                assert found[f"bare-{turn}-{n}"] == (newest[f"i{n}"].attributes if n < 9 else {})
            assert found[f"own-{turn}"] == {"year": 7.0}
    kept = [(m.key().decode(), m) for m in read(there.catalogue, dict.fromkeys(range(PARTITIONS), 0))]
    assert len(kept) == 9 and {item: decode(m.value()) for item, m in kept} == newest


def test_a_stopped_worker_leaves_its_group_at_once(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle, work: Callable[..., Any],
    wait_for: Callable[..., None]
) -> None:  # fmt: skip
    """The next one needs no session to run out: with a session of a quarter of an hour it would otherwise wait for that
    long."""
    slow = WorkerOptions(session_timeout_ms=800_000, heartbeat_interval_s=0.2)
    for _ in range(2):
        with work(there, "user", tmp_path, options=slow) as worker:
            wait_for(lambda: len(worker.stage.partitions) == PARTITIONS, "the takeover")


def test_workers_may_be_stopped_before_they_own_anything(
    kafka: DevKafka, there: Topics, tmp_path: Path, bundle: Bundle
) -> None:
    """Stop before the first turn: nothing is left open, nothing is written."""
    processor = Processor(bundle, "user", there, "g1", PARTITIONS, tmp_path)
    stop = threading.Event()
    stop.set()
    side_worker(processor, kafka.bootstrap, BRISK).run(stop)
    assert list(tmp_path.glob("user-*")) == []
