"""Encoders that cannot keep up: pairs wait in their rows, nothing is lost by it, and nothing stale is told as fresh."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay.events import Behaviour, Event
from forebay.segments.bundle import Bundle
from forebay.segments.history import History
from forebay.store.codec import DEFAULT, HEARTBEAT_KEY, HELD, unpack_heartbeat
from forebay.streams.topics import Topics
from forebay.streams.worker import processor as module
from forebay.streams.worker.batch import Outcome
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.source import Source

from .cleanlog import COUNT, NOW, Rec, batches_of, log_of

Vectors = dict[str, dict[str, bytes]]  # entity -> segment -> codes


class Served:
    """What a serving node has after all that was told."""

    def __init__(self, processor: Processor) -> None:
        self._codec = processor.codec
        self.rows: dict[str, Any] = {}
        self.partition: dict[str, int] = {}
        self.as_of = dict.fromkeys(range(COUNT), 0)

    def take(self, outcome: Outcome, beats: list[Any]) -> None:
        for record in [*outcome.records, *beats]:
            if record.key == HEARTBEAT_KEY:
                self.as_of[record.partition] = unpack_heartbeat(record.value or b"")
            elif record.value is None:
                del self.rows[record.key.decode()]
            else:
                rows, (entity,) = self._codec.unpack([record.value])
                self.rows[entity], self.partition[entity] = rows[0]["segments"], record.partition

    def claims(self) -> Iterator[tuple[str, str, int, Any]]:
        """Entity, segment, as of when it is said to be, and its part of the row."""
        for entity, row in self.rows.items():
            for segment in self._codec.segments:
                part = row[segment.name]
                carried = 0 if part["flags"] & HELD else self.as_of[self.partition[entity]]
                yield entity, segment.name, max(int(part["as_of"]), carried), part


def _opened(bundle: Bundle, folder: Path, clock: Callable[[], float] = lambda: 0.0) -> Processor:
    processor = Processor(bundle, "user", Topics(), "g1", COUNT, folder, clock=clock)
    processor.schedule.chose = lambda seconds: None  # type: ignore[method-assign]  # the budget is what a test says
    for partition in range(COUNT):
        processor.open(partition, Source(processor.topic, partition, "topic-1"), 0)
    return processor


def _close(processor: Processor) -> None:
    for partition in list(processor.partitions):
        processor.close(partition)


def _parts(records: list[Rec], size: int) -> list[list[Rec]]:
    return [records[at : at + size] for at in range(0, len(records), size)]


@pytest.fixture
def log(make_history: Callable[..., History], arrivals: Callable[..., list[Event]]) -> list[list[Rec]]:
    """Sixty batches of a clean log."""
    return _parts(log_of(arrivals(make_history(900)), size=3), 6)[:60]


@pytest.fixture
def truth(bundle: Bundle, log: list[list[Rec]], tmp_path: Path) -> list[Vectors]:
    """Each entity's vectors after each batch, where everything is encoded at once."""
    processor, found = _opened(bundle, tmp_path / "truth"), []
    served = Served(processor)
    for batch in log:
        served.take(processor.apply(batches_of(batch)), [])
        vectors: Vectors = {}
        for entity, segment, _, part in served.claims():
            vectors.setdefault(entity, {})[segment] = part["vector"].tobytes()
        found.append(vectors)
    _close(processor)
    return found


@pytest.mark.parametrize("most_held", [1, 16_384])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_waits_no_vector_is_said_to_be_newer_than_it_is(
    seed: int, most_held: int, bundle: Bundle, log: list[list[Rec]], truth: list[Vectors], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Law 5, with as little time for encoding as a seed draws, flushes, and crashes back to the store. After batch n
    the claim is NOW + n: what is served as of that is what it was after batch n, or later."""
    monkeypatch.setattr(module, "MOST_HELD", most_held)
    pick, seconds = random.Random(seed), [0.0]
    processor = _opened(bundle, tmp_path / "state", lambda: seconds[0])
    served, waited, claimed = Served(processor), 0, 0
    for n, batch in enumerate(log):
        as_of = {p: NOW + n for p in range(COUNT) if pick.random() < 0.8}
        seconds[0] += pick.choice([0, 0.001, 0.5, 3])
        outcome = processor.apply(batches_of(batch), as_of, encode_s=pick.choice([0, 0, 5e-5, 2e-4, 1]))
        served.take(outcome, processor.beat(NOW + n))
        waited += outcome.waits
        for entity, segment, moment, part in served.claims():
            if moment:
                codes, at = part["vector"].tobytes(), moment - NOW
                claimed += 1
                then = [vectors[entity][segment] for vectors in truth[at : n + 1] if entity in vectors]
                assert codes in then, f"{segment} of {entity}"
        if pick.random() < 0.2:
            processor.flush()
        elif pick.random() < 0.1:  # a crash: its successor folds silently what the log has been told of
            offsets = {p: owned.meta.offset for p, owned in processor.partitions.items()}
            _close(processor)
            processor = _opened(bundle, tmp_path / "state", lambda: seconds[0])
            for part in log[: n + 1]:
                for found in batches_of(part):
                    owned = processor.partitions[found.partition]
                    if (fresh := [o for o in found.offsets if o >= owned.meta.offset]) and len(fresh):
                        processor.apply([found.since(len(found.offsets) - len(fresh))], aloud=False)
            assert {p: owned.meta.offset for p, owned in processor.partitions.items()} == offsets
    assert waited > 10 and claimed > 1000
    for _ in range(1000):
        outcome = processor.apply([], dict.fromkeys(range(COUNT), NOW + len(log)), encode_s=5e-5)
        served.take(outcome, processor.beat(NOW))
        if not outcome.waits:
            break
    for entity, segment, moment, part in served.claims():
        assert part["vector"].tobytes() == truth[-1][entity][segment]
        assert moment == NOW + len(log) and not part["flags"] & HELD
    assert not any(len(owned.waiting()) for owned in processor.partitions.values())
    _close(processor)


def test_a_new_entity_has_its_default_vectors_until_it_is_encoded(bundle: Bundle, tmp_path: Path) -> None:
    """One segment of each is encoded in a batch. The others are the learned defaults, held at no time."""
    processor, events = _opened(bundle, tmp_path), log_of(_clicks(12))
    nothing = dict(zip((s.name for s in processor.codec.segments), processor._encoders.defaults, strict=True))
    served, defaults = Served(processor), 0
    outcome = processor.apply(batches_of(events), dict.fromkeys(range(COUNT), NOW), encode_s=0)
    assert outcome.waits and len(outcome.records) == 1
    while outcome.waits:
        served.take(outcome, processor.beat(NOW))
        for _, segment, moment, part in served.claims():
            if part["flags"] & HELD:
                defaults += 1
                codes, scale = nothing[segment]
                assert (part["flags"], moment) == (HELD | DEFAULT, 0)
                assert part["vector"].tolist() == codes.tolist() and part["scale"] == scale
        outcome = processor.apply([], encode_s=0)
    assert defaults
    _close(processor)


def test_what_waits_is_stored_as_waiting(
    bundle: Bundle, log: list[list[Rec]], truth: list[Vectors], tmp_path: Path
) -> None:
    """The next owner goes on with it, and needs no event for that."""
    processor = _opened(bundle, tmp_path / "state")
    for batch in log:
        assert processor.apply(batches_of(batch), encode_s=0).waits
    processor.flush()
    _close(processor)
    processor = _opened(bundle, tmp_path / "state")
    served = Served(processor)
    served.take(processor.apply([], dict.fromkeys(range(COUNT), NOW)), [])
    assert served.rows
    for entity, segment, moment, part in served.claims():
        assert part["vector"].tobytes() == truth[-1][entity][segment] and moment == NOW
    _close(processor)


def test_who_acted_last_is_encoded_first(bundle: Bundle, tmp_path: Path) -> None:
    """Ten users, whose events come late, and one of them comes back."""
    processor = _opened(bundle, tmp_path)
    events = [*(_click(f"u{n}", -300_000) for n in range(10)), _click("u3", 0)]
    outcome = processor.apply(batches_of(log_of(events)), encode_s=0)
    assert [record.key for record in outcome.records] == [b"u3"]
    _close(processor)


def _click(user: str, n: int) -> Event:
    return Behaviour(user, "i1", "rate", 3.0, NOW - 1000 + n, f"e{n}")


def _clicks(count: int) -> list[Event]:
    return [_click(f"u{n}", n) for n in range(count)]


def test_a_pair_that_is_held_is_told_once(bundle: Bundle, tmp_path: Path) -> None:
    """An overload does not tell of each event of a user who waits, and of none who waits for less than two seconds."""
    seconds = [0.0]
    processor = _opened(bundle, tmp_path, lambda: seconds[0])
    processor.apply(batches_of(log_of([_click("u1", -900_000), _click("u2", 1)])), dict.fromkeys(range(COUNT), NOW))
    told = []
    for n in range(6):
        events = [_click("u1", n - 800_000), _click("u2", n)]  # u2 acted last
        told.append([r.key for r in processor.apply(batches_of(log_of(events)), encode_s=0).records])
        seconds[0] += 1.0
    assert [b"u1" in keys for keys in told] == [False, False, True, False, False, False]
    assert all(b"u2" in keys for keys in told)
    _close(processor)


def test_a_partition_claims_what_held_before_the_first_of_those_that_wait(bundle: Bundle, tmp_path: Path) -> None:
    """It goes on to claim while others begin to wait, and all of it when nothing waits any more."""
    seconds = [0.0]
    processor = _opened(bundle, tmp_path, lambda: seconds[0])
    partitions = [(record.partition, f"u{n}") for n in range(20) for record in log_of([_click(f"u{n}", 0)])]
    (partition, one), (_, other), *_ = sorted(partitions)
    owned, claimed = processor.partitions[partition], []
    for n in range(4):
        events = log_of([_click(one, n), _click(other, n)])  # those of a row that is told of are held with it
        processor.apply(batches_of(events), {partition: NOW + n}, encode_s=0 if n % 2 else 1)
        claimed.append(owned.meta.as_of - NOW)
        seconds[0] += 0.1
    assert claimed == [0, 0, 2, 2]
    while processor.apply([], {}, encode_s=0).waits:
        seconds[0] += 0.1
    assert owned.meta.as_of == NOW + 3
    _close(processor)
