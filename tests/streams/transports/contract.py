"""What every Transport keeps (streams/worker/transport.py). A subclass brings a `place`: a log with topics in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

import pytest

from forebay.errors import Fenced, LogGap, RecordRefused
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import PartitionBatch, Record
from forebay.streams.worker.transport import Polled, Transport

PARTITIONS = 2  # of the first source; the second one has one
WITHIN_S = 60.0


class Place(Protocol):
    """A log for one test: two sources of two partitions and of one, a topic of two partitions to be followed, and what
    a commit writes to. `moment` (ms) is what its transports' ends cover."""

    topics: Topics
    moment: int

    def transport(self, slot: str = "0", *, follows: bool = True) -> Transport:
        """A worker's way to it, which follows the catalogue or nothing."""

    def append(self, partition: int, values: Sequence[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Records of a producer in the source partition of that number."""

    def committed(self, topic: str) -> list[tuple[int, bytes | None, bytes | None]]:
        """What readers see of a topic: partition, key, value."""

    def notes(self) -> dict[int, str | None]:
        """What stands beside the group's offsets, by partition."""

    def delete_before(self, partition: int, offset: int) -> None:
        """What retention does to a partition of the first source."""


class Ear:
    """An owner that notes what it hears, under its name, in a list that it may share."""

    def __init__(self, name: str, said: list[tuple[str, str, tuple[int, ...]]]) -> None:
        self.name, self.said, self.owned = name, said, set[int]()

    def assigned(self, partitions: Sequence[int]) -> None:
        self.said.append((self.name, "assigned", tuple(partitions)))
        self.owned.update(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        self.said.append((self.name, "revoked", tuple(partitions)))
        self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        self.said.append((self.name, "lost", tuple(partitions)))
        self.owned.difference_update(partitions)


class Taking:
    """Transports of one test, taking turns at polling; what each has read, by partition."""

    def __init__(self, place: Place) -> None:
        self.place, self.stop = place, threading.Event()
        self.said: list[tuple[str, str, tuple[int, ...]]] = []
        self.open: dict[str, tuple[Transport, Ear]] = {}
        self.read: dict[int, list[int]] = {p: [] for p in range(PARTITIONS + 1)}
        self.ends: dict[int, int] = {}
        self.followed: dict[str, list[PartitionBatch]] = {}  # by name, as polls brought them

    def join(self, name: str, slot: str = "0") -> tuple[Transport, Ear]:
        """A transport that is a member of the group."""
        transport, ear = self.place.transport(slot), Ear(name, self.said)
        self.open[name] = (transport, ear)
        transport.join(ear, self.stop)
        return transport, ear

    def owning(self, name: str = "first", slot: str = "0") -> Transport:
        """A transport that has all partitions and its slot; they stand still."""
        transport, ear = self.join(name, slot)
        self.until(lambda: ear.owned == set(range(PARTITIONS + 1)))
        transport.take(self.stop)
        for _ in range(5):  # what was fetched before they stood still
            transport.poll(100, 0.05)
        self.read = {p: [] for p in range(PARTITIONS + 1)}
        return transport

    def poll(self, most: int = 100) -> list[Polled]:
        """One poll of each."""
        polls = {name: transport.poll(most, 0.05) for name, (transport, _) in self.open.items()}
        found = [*polls.values()]
        for name, polled in polls.items():
            self.followed.setdefault(name, []).extend(polled.followed)
            for batch in polled.batches:
                self.read[batch.partition] += batch.offsets
            self.ends.update(polled.ends)
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll until something holds."""
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {WITHIN_S} s; heard {self.said}, read {self.read}"
            self.poll()

    def close(self, name: str) -> None:
        """One of them leaves."""
        self.open.pop(name)[0].close()


def records(place: Place, value: bytes = b"row") -> list[Record]:
    """One for a partition and one by its key, which has a header."""
    return [
        Record(place.topics.vectors("g1", "user"), 1, b"u1", value),
        Record(place.topics.dead_letters, -1, b"k", b"\xff", (("why", b"late"),)),
    ]


def updates(place: Place, value: bytes, count: int = 6) -> list[Record]:
    """Records of the followed topic, some for each of its partitions."""
    headers = (("why", b"told"),)
    return [Record(place.topics.catalogue, n % 2, b"i%d" % n, value + b"-%d" % n, headers) for n in range(count)]


def values(batches: Iterable[PartitionBatch]) -> dict[int, list[bytes | None]]:
    """By partition, in order."""
    found: dict[int, list[bytes | None]] = {}
    for batch in batches:
        found.setdefault(batch.partition, []).extend(batch.values)
    return found


class TransportContract:
    """The tests. `place` is the subclass's."""

    tells_shares = True  # whether the transport knows who has what

    @pytest.fixture
    def taking(self, place: Place) -> Iterator[Taking]:
        """Nobody has joined yet."""
        taking = Taking(place)
        yield taking
        for name in list(taking.open):
            taking.close(name)

    def test_what_is_assigned_stands_still_until_it_is_told_where_to_go_on(self, place: Place, taking: Taking) -> None:
        """Records that wait are not delivered before, and after it from there on, in order."""
        place.append(0, [b"a", b"b", b"c", b"d"])
        place.append(1, [b"a", b"b"])
        transport = taking.owning()
        for _ in range(5):
            assert all(not polled.batches for polled in taking.poll())
        transport.go_on(0, 1, taking.stop)
        taking.until(lambda: len(taking.read[0]) >= 3)
        assert taking.read == {0: [1, 2, 3], 1: [], 2: []}

    def test_partitions_of_several_sources_are_numbered_one_after_the_other(self, place: Place, taking: Taking) -> None:
        """And told apart by that number in everything: reading, offsets, ends."""
        place.append(0, [b"a"])
        place.append(2, [b"x", b"y"], (("name", b"told"),))
        transport = taking.owning()
        sources = [transport.source(p) for p in range(PARTITIONS + 1)]
        assert [(s.topic, s.partition) for s in sources] == [
            (place.topics.behaviour, 0), (place.topics.behaviour, 1), (place.topics.item_updates, 0)
        ]  # fmt: skip
        assert len({s.topic_id for s in sources}) == 2
        transport.go_on(2, 0, taking.stop)
        transport.go_on(0, 0, taking.stop)
        found = []
        while len(taking.read[2]) < 2 or not taking.read[0]:
            found += [b for polled in taking.poll() for b in polled.batches if b.partition == 2]
        assert [v for b in found for v in b.values] == [b"x", b"y"]
        assert [list(b.headers_at(n)) for b in found for n in range(len(b.offsets))] == [[("name", b"told")]] * 2
        taking.until(lambda: (end := transport.end(2)) is not None and end.offset == 2)
        transport.submit([], {2: 2, 0: 1}, {}, 1)
        assert transport.settle(taking.stop)
        assert [transport.committed(p) for p in range(PARTITIONS + 1)] == [1, None, 2]

    def test_what_is_held_stands_still_again(self, place: Place, taking: Taking) -> None:
        """And goes on anywhere, backwards too."""
        place.append(0, [b"a", b"b"])
        transport = taking.owning()
        transport.go_on(0, 0, taking.stop)
        taking.until(lambda: len(taking.read[0]) == 2)
        transport.hold([0])
        for _ in range(5):
            taking.poll()
        place.append(0, [b"c"])
        for _ in range(5):
            taking.poll()
        assert taking.read[0] == [0, 1]
        transport.go_on(0, 1, taking.stop)
        taking.until(lambda: len(taking.read[0]) == 4)
        assert taking.read[0] == [0, 1, 1, 2]

    def test_a_poll_brings_no_more_than_asked_for_and_meets_the_end(self, place: Place, taking: Taking) -> None:
        """Limits are how a refused record is found; the end is how an idle partition proves to be current."""
        place.append(1, [b"a", b"b", b"c", b"d", b"e"])
        transport = taking.owning()
        transport.go_on(1, 0, taking.stop)
        sizes = []
        while len(taking.read[1]) < 5:
            sizes += [len(batch.offsets) for polled in taking.poll(2) for batch in polled.batches]
        assert max(sizes) <= 2 and taking.read[1] == [0, 1, 2, 3, 4]
        taking.until(lambda: taking.ends.get(1) == 5)

    def test_the_end_is_told_beside_the_reading(self, place: Place, taking: Taking) -> None:
        """With the moment that was asked for before it: what came by then lies below the end."""
        place.moment = 7
        place.append(0, [b"a", b"b"])
        transport = taking.owning()
        taking.until(lambda: (end := transport.end(0)) is not None and end.offset == 2)
        end = transport.end(0)
        assert end is not None and end.readable <= 2 and end.covers_ms == 7
        place.moment = 8
        taking.until(lambda: (end := transport.end(0)) is not None and end.covers_ms == 8)

    def test_a_batch_waits_for_company_as_long_as_it_is_told_to(self, place: Place, taking: Taking) -> None:
        """And no longer than until it is full."""
        place.append(0, [b"a"] * 40)
        transport = taking.owning()
        transport.go_on(0, 0, taking.stop)
        found: list[int] = []
        while len(found) < 40:
            for batch in transport.poll(40, 0.05, 0.05).batches:
                found += batch.offsets
        assert found == list(range(40))

    def test_a_gap_is_read_by_whoever_asks(self, place: Place, taking: Taking) -> None:
        """Between two offsets, in batches, whether the partition is read otherwise or not."""
        place.append(1, [b"a", b"b", b"c", b"d", b"e"])
        transport = taking.owning()
        batches = [b for b in transport.read(1, 1, 4, 2, taking.stop) if b is not None]
        assert [o for b in batches for o in b.offsets] == [1, 2, 3]
        assert [v for b in batches for v in b.values] == [b"b", b"c", b"d"]
        assert max(len(b.offsets) for b in batches) <= 2
        assert list(transport.read(1, 4, 4, 2, taking.stop)) in ([], [None])

    def test_a_stop_ends_the_reading_of_a_gap(self, place: Place, taking: Taking) -> None:
        """Soon, and with what was read."""
        place.append(1, [b"a"] * 50)
        transport, found = taking.owning(), []
        for batch in transport.read(1, 0, 50, 5, taking.stop):
            found += [] if batch is None else list(batch.offsets)
            if found:
                taking.stop.set()
        assert 0 < len(found) < 50

    def test_what_has_left_the_log_is_a_gap_by_name(self, place: Place, taking: Taking) -> None:
        """For either way of reading."""
        place.append(0, [b"a", b"b", b"c"])
        place.delete_before(0, 2)
        transport = taking.owning()
        assert transport.first(0) == 2
        with pytest.raises(LogGap):
            list(transport.read(0, 0, 3, 10, taking.stop))
        transport.go_on(0, 0, taking.stop)
        with pytest.raises(LogGap):
            taking.until(lambda: False)

    def test_a_commit_puts_everything_where_it_belongs(self, place: Place, taking: Taking) -> None:
        """Records by partition or by key, with their headers, and the group's offsets with their notes."""
        place.append(1, [b"a", b"b", b"c"])
        transport = taking.owning()
        assert transport.committed(1) is None
        transport.submit(records(place), {1: 3, 2: 0}, {1: "as of 5"}, 3)
        assert transport.settle(taking.stop)
        assert [transport.committed(p) for p in range(PARTITIONS + 1)] == [None, 3, 0]
        assert place.notes() == {1: "as of 5", 2: ""}
        assert place.committed(place.topics.vectors("g1", "user")) == [(1, b"u1", b"row")]
        assert [(k, v) for _, k, v in place.committed(place.topics.dead_letters)] == [(b"k", b"\xff")]
        transport.submit([], {1: 3}, {1: "as of 6"}, 0)
        assert transport.settle(taking.stop)
        assert place.notes() == {1: "as of 6", 2: ""}

    def test_nothing_is_settled_where_nothing_was_begun(self, place: Place, taking: Taking) -> None:
        """Nor anything begun without a slot."""
        transport, ear = taking.join("first")
        transport.submit([], {}, {}, 0)
        assert not transport.settle(taking.stop)
        taking.until(lambda: bool(ear.owned))
        transport.take(taking.stop)
        assert not transport.settle(taking.stop)

    def test_a_record_that_is_too_large_is_refused_with_all_that_goes_with_it(
        self, place: Place, taking: Taking
    ) -> None:
        """By a name of its own, and the next commit goes through."""
        transport = taking.owning()
        transport.submit(records(place, b"x" * 2_000_000), {1: 3}, {}, 1)
        with pytest.raises(RecordRefused):
            transport.settle(taking.stop)
        assert transport.committed(1) is None and place.committed(place.topics.dead_letters) == []
        transport.submit(records(place), {1: 3}, {}, 1)
        assert transport.settle(taking.stop) and transport.committed(1) == 3

    def test_the_slot_of_a_running_worker_is_not_given_away(self, place: Place, taking: Taking) -> None:
        """A second start with the same name is the one that ends."""
        first = taking.owning()
        with pytest.raises(Fenced):  # before it joins, where its place tells
            taking.join("second")[0].take(taking.stop)
        taking.close("second")
        first.submit(records(place), {}, {}, 1)
        assert first.settle(taking.stop)

    def test_the_slot_is_free_when_its_worker_has_left(self, place: Place, taking: Taking) -> None:
        """At once: no session has to run out."""
        taking.owning()
        taking.close("first")
        second = taking.owning("second")
        second.submit(records(place), {1: 1}, {}, 1)
        assert second.settle(taking.stop) and second.committed(1) == 1

    def test_what_is_abandoned_ends_with_the_next_taking(self, place: Place, taking: Taking) -> None:
        """Whole or absent, and nothing of it comes later."""
        transport = taking.owning()
        transport.submit(records(place, b"one"), {1: 1}, {}, 1)
        transport.abandon()
        transport.take(taking.stop)
        done = transport.committed(1)
        seen = [v for _, k, v in place.committed(place.topics.vectors("g1", "user")) if k == b"u1"]
        assert (done, seen) in ((None, []), (1, [b"one"]))
        transport.submit(records(place, b"two"), {1: 2}, {}, 1)
        assert transport.settle(taking.stop) and transport.committed(1) == 2
        assert [v for _, k, v in place.committed(place.topics.vectors("g1", "user")) if k == b"u1"] == [*seen, b"two"]

    def test_a_partition_is_given_to_another_member_when_its_owner_has_let_go(
        self, place: Place, taking: Taking
    ) -> None:
        """Not before; and what stays goes on."""
        place.append(0, [b"a"])
        place.append(1, [b"a"])
        first = taking.owning()
        for partition in range(PARTITIONS + 1):
            first.go_on(partition, 0, taking.stop)
        _, ear = taking.join("second", slot="1")
        taking.until(lambda: len(ear.owned) >= 1)
        moved = min(ear.owned)

        def when(who: str, what: str) -> int:
            return next(n for n, said in enumerate(taking.said) if said[:2] == (who, what) and moved in said[2])

        assert when("first", "revoked") < when("second", "assigned")
        _, owner = taking.open["first"]
        kept = min(owner.owned)
        place.append(kept, [b"b"])
        taking.until(lambda: taking.read[kept] == ([0, 1] if kept < PARTITIONS else [0]))
        taking.close("second")
        taking.until(lambda: owner.owned == set(range(PARTITIONS + 1)))

    def test_the_group_says_who_has_what(self, place: Place, taking: Taking) -> None:
        """To each member the same, and which one it is itself; or that the transport cannot tell."""
        first = taking.owning()
        second, ear = taking.join("second", slot="1")
        _, owner = taking.open["first"]
        taking.until(lambda: bool(ear.owned) and len(ear.owned | owner.owned) == PARTITIONS + 1)
        if not self.tells_shares:
            assert first.shares() is None
            return

        def told() -> bool:
            shares = first.shares(), second.shares()
            assert shares[0] is not None and shares[1] is not None
            mine = [set(found.of.get(found.mine, ())) for found in (shares[0], shares[1])]
            return mine == [owner.owned, ear.owned] and shares[0].of == shares[1].of and len(shares[0].of) == 2

        taking.until(told)

    def test_a_followed_topic_is_read_whole_and_each_record_once(self, place: Place, taking: Taking) -> None:
        """From its beginning, whatever is owned; first what it has, to its end, and then with the polls what comes."""
        first = taking.owning()
        first.submit(updates(place, b"old"), {}, {}, 1)
        assert first.settle(taking.stop)
        for _ in range(3):
            taking.poll()
        second, _ = taking.join("second", slot="1")
        caught = {
            name: [*taking.followed.get(name, []), *chain.from_iterable(one.catch_up(taking.stop))]
            for name, one in (("first", first), ("second", second))
        }
        for batches in caught.values():
            assert values(batches) == {0: [b"old-0", b"old-2", b"old-4"], 1: [b"old-1", b"old-3", b"old-5"]}
            assert [k for b in batches if b.partition for k in b.keys] == [b"i1", b"i3", b"i5"]
            assert {tuple(b.headers_at(n)) for b in batches for n in range(len(b.offsets))} == {(("why", b"told"),)}
        taking.followed.clear()
        first.submit(updates(place, b"new", 2), {}, {}, 1)
        assert first.settle(taking.stop)
        taking.until(lambda: all(len(values(taking.followed.get(name, []))) == 2 for name in ("first", "second")))
        assert all(values(found) == {0: [b"new-0"], 1: [b"new-1"]} for found in taking.followed.values())
        assert list(chain.from_iterable(first.catch_up(taking.stop))) == []

    def test_what_is_not_committed_is_not_followed(self, place: Place, taking: Taking) -> None:
        """And what is, is there with the next catching up, however soon that is."""
        transport = taking.owning()
        transport.submit([*updates(place, b"bad"), *records(place, b"x" * 2_000_000)], {}, {}, 1)
        with pytest.raises(RecordRefused):
            transport.settle(taking.stop)
        assert list(chain.from_iterable(transport.catch_up(taking.stop))) == []
        for turn in range(5):
            transport.submit(updates(place, b"%d" % turn, 1), {}, {}, 1)
            assert transport.settle(taking.stop)
            found = values(chain.from_iterable(transport.catch_up(taking.stop)))
            assert found == {0: [b"%d-0" % turn]}

    def test_a_stop_ends_the_catching_up(self, place: Place, taking: Taking) -> None:
        """Soon, and what it has not brought then comes later."""
        transport = taking.owning()
        transport.submit(updates(place, b"a"), {}, {}, 1)
        assert transport.settle(taking.stop)
        taking.stop.set()
        assert list(chain.from_iterable(transport.catch_up(taking.stop))) == []
        taking.stop.clear()
        assert len(values(chain.from_iterable(transport.catch_up(taking.stop)))[0]) == 3

    def test_who_follows_nothing_has_nothing_to_catch_up_with(self, place: Place, taking: Taking) -> None:
        """At once, and in no poll."""
        other = taking.owning()
        other.submit(updates(place, b"a"), {}, {}, 1)
        assert other.settle(taking.stop)
        transport = place.transport("1", follows=False)
        transport.join(Ear("alone", []), threading.Event())
        try:
            assert list(transport.catch_up(taking.stop)) == []
            assert all(not transport.poll(100, 0.05).followed for _ in range(5))
        finally:
            transport.close()
