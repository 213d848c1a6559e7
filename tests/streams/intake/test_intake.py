"""The Intake as a stage, without Kafka: what it tells, what it keeps, and what it forgets for want of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from forebay.clock import DAY_MS, HOUR_MS
from forebay.events import Attributes, Behaviour, Event, ItemUpdate, Tick, decode, encode
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import events_of
from forebay.segments.blocks.schema import HEADER
from forebay.segments.spec import SIDES
from forebay.streams.deadletter import DeadLetter
from forebay.streams.intake.accept import Rules
from forebay.streams.intake.intake import DUPLICATE_MARGIN_MS, Intake
from forebay.streams.intake.note import Note, as_of, note_of
from forebay.streams.topics import Topics
from forebay.streams.worker.batch import Outcome, PartitionBatch, Record
from forebay.streams.worker.source import Source
from forebay.telemetry import add_hook

NOW = 1_790_000_000_000
TOPICS = Topics("t.")
SOURCES = [Source("t.behaviour", 0, "b"), Source("t.behaviour", 1, "b"), Source("t.item-updates", 0, "i")]
COUNTS = {"user": 3, "item": 2}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Intake]]:
    """`opened(memory_bytes=…)`: an Intake of all three source partitions, over one folder."""
    made: list[Intake] = []

    def start(memory_bytes: int = 1 << 30, rules: Rules = Rules()) -> Intake:
        for one in made:
            _close(one)
        intake = Intake(TOPICS, SOURCES, COUNTS, tmp_path, rules, memory_bytes)
        for number, source in enumerate(SOURCES):
            intake.open(number, source, 0)
        made.append(intake)
        return intake

    yield start
    for one in made:
        _close(one)


def _close(intake: Intake) -> None:
    for partition in list(intake.partitions):
        intake.close(partition)


def _batch(partition: int, events: Sequence[Event | bytes], first: int = 0, append: int = NOW) -> PartitionBatch:
    values = [e if isinstance(e, bytes) else encode(e) for e in events]
    count = len(values)
    return PartitionBatch(partition, [b"k"] * count, values, range(first, first + count), [append] * count)


def _click(n: int, time: int = NOW - 1000) -> Behaviour:
    return Behaviour(f"u{n % 7}", f"i{n % 5}", "rate", 1.0, time, f"e{n}")


def _told(records: Sequence[Record], side: str) -> list[tuple[int, Event]]:
    """Partition and event of each that goes into a side's clean log."""
    mine = [r for r in records if r.topic == TOPICS.events(side)]
    blocks = [(r.partition, Block.decode(dict(r.headers)[HEADER], r.value or b"")) for r in mine]
    return [(partition, event) for partition, block in blocks for event in events_of(block)]


def _ids(outcome: Outcome, side: str) -> list[str | None]:
    return sorted(e.id or "" for _, e in _told(outcome.records, side) if not isinstance(e, Tick))


def test_a_batch_of_several_sources_goes_into_both_logs_once(opened: Callable[..., Intake]) -> None:
    """Behaviours into both, updates into their own; where each source stands goes with it; a letter for what is bad."""
    intake = opened()
    update = ItemUpdate("i1", {"year": 1990.0}, NOW - 5, "up")
    outcome = intake.apply(
        [_batch(0, [_click(1), _click(2), b"{"]), _batch(1, [_click(3)]), _batch(2, [update], append=NOW + 3)]
    )
    assert _ids(outcome, "user") == ["e1", "e2", "e3"]
    assert _ids(outcome, "item") == ["e1", "e2", "e3", "up"]
    assert {p for p, _ in _told(outcome.records, "user")} <= set(range(3))
    (letter,) = [r for r in outcome.records if r.topic == TOPICS.dead_letters]
    found = DeadLetter.from_record(letter.key, letter.value, letter.headers)
    assert (found.reason, found.topic, found.partition, found.offset) == ("undecodable", "t.behaviour", 0, 2)
    assert (outcome.offsets, outcome.taken, outcome.events) == ({0: 3, 1: 1, 2: 1}, 5, 5)
    assert [intake.partitions[p].meta.as_of for p in range(3)] == [NOW, NOW, NOW + 3]
    again = intake.apply([_batch(0, [_click(1), _click(4)], first=3)])
    assert _ids(again, "user") == ["e4"]


def test_what_is_read_silently_is_known_and_not_told(opened: Callable[..., Intake]) -> None:
    """The gap behind a store: its events are in the log already, and their duplicates are none too few."""
    intake = opened()
    silent = intake.apply([_batch(0, [_click(1), b"{"])], aloud=False)
    assert (silent.records, silent.offsets) == ((), {0: 2})
    assert _ids(intake.apply([_batch(0, [_click(1), _click(2)], first=2)]), "item") == ["e2"]


def test_identities_outlive_the_process_as_far_as_they_were_flushed(opened: Callable[..., Intake]) -> None:
    """And the offset with them."""
    intake = opened()
    intake.apply([_batch(0, [_click(1)])])
    intake.flush()
    intake.apply([_batch(0, [_click(2)], first=1)])
    intake = opened()
    assert intake.partitions[0].meta.offset == 1
    assert _ids(intake.apply([_batch(0, [_click(1), _click(2)], first=1)]), "user") == ["e2"]


def _of_topic(outcome: Outcome) -> list[tuple[str, Event]]:
    """Key and event of each record for the catalogue."""
    mine = [r for r in outcome.records if r.topic == TOPICS.catalogue]
    assert all(r.partition == -1 for r in mine)
    return [((r.key or b"").decode(), decode(r.value or b"")) for r in mine]


def _read_back(intake: Intake, records: Sequence[Record], partition: int = 0) -> None:
    """The followed topic has `records`."""
    keys, values, count = [r.key for r in records], [r.value for r in records], len(records)
    intake.learn([PartitionBatch(partition, keys, values, range(count), [NOW] * count)])


def _filled(outcome: Outcome) -> dict[str, Attributes]:
    """The item attributes of each behaviour, by id; they are the same in both logs."""
    user, item = (
        {e.id or "": e.item_attributes for _, e in _told(outcome.records, side) if isinstance(e, Behaviour)}
        for side in SIDES
    )
    assert user == item
    return user


def test_a_behaviour_without_item_attributes_gets_those_of_the_newest_update(opened: Callable[..., Intake]) -> None:
    """Of its own batch as well; one that has some keeps them, and of an unknown item nothing is made up."""
    intake = opened()
    old, new = ItemUpdate("i1", {"year": 1.0}, NOW - 9, "a"), ItemUpdate("i1", {"year": 2.0, "g": ["é"]}, NOW - 5, "b")
    own = Behaviour("u1", "i1", "rate", 1.0, NOW - 1, "own", {"year": 7.0})
    outcome = intake.apply([_batch(0, [_click(1), _click(2), own]), _batch(2, [new, old])])
    assert _filled(outcome) == {"e1": new.attributes, "e2": {}, "own": {"year": 7.0}}
    assert _of_topic(outcome) == [("i1", new)]
    assert _filled(intake.apply([_batch(1, [_click(6)])])) == {"e6": new.attributes}


def test_only_an_update_that_is_newer_goes_into_the_catalogue(opened: Callable[..., Intake]) -> None:
    """In a topic that keeps the last record, an older one would take its place."""
    intake = opened()
    first = intake.apply([_batch(2, [ItemUpdate("i1", {"year": 1.0}, 7, "e"), ItemUpdate("i2", {"g": "x"}, 7, "e")])])
    assert [key for key, _ in _of_topic(first)] == ["i1", "i2"]
    older = [ItemUpdate("i1", {"year": 2.0}, 6, "z"), ItemUpdate("i1", {"year": 3.0}, 7, "e")]
    outcome = intake.apply([_batch(2, older, first=2)])
    assert _of_topic(outcome) == [] and len(_told(outcome.records, "item")) == 2


def test_what_was_not_committed_is_in_no_behaviour(opened: Callable[..., Intake]) -> None:
    """All partitions are closed then. What was committed comes back by the topic, and what another Intake told."""
    intake = opened()
    outcome = intake.apply([_batch(2, [ItemUpdate("i1", {"year": 1.0}, 7, "e")])])
    told = [r for r in outcome.records if r.topic == TOPICS.catalogue]
    _close(intake)
    for number, source in enumerate(SOURCES):
        intake.open(number, source, 0)
    assert _filled(intake.apply([_batch(0, [_click(1)])])) == {"e1": {}}
    _read_back(intake, told)
    assert _filled(intake.apply([_batch(0, [_click(6)], first=1)])) == {"e6": {"year": 1.0}}
    intake.close(1)
    assert _filled(intake.apply([_batch(0, [_click(11)], first=2)])) == {"e11": {"year": 1.0}}


def test_what_is_read_silently_takes_and_gives_no_attributes(opened: Callable[..., Intake]) -> None:
    """Its Blocks are written, and its updates come by the topic."""
    intake = opened()
    intake.apply([_batch(2, [ItemUpdate("i1", {"year": 1.0}, 7, "e")])], aloud=False)
    assert _filled(intake.apply([_batch(0, [_click(1)])])) == {"e1": {}}


def test_an_item_that_is_gone_from_the_topic_is_not_known(opened: Callable[..., Intake]) -> None:
    """A record without a value; a newer update before it goes, too, and one after it stays. A stranger's record is told
    of and stepped over."""
    intake, strangers = opened(), list[int]()
    outcome = intake.apply([_batch(2, [ItemUpdate(f"i{n}", {"year": 1.0}, 7, "e") for n in (1, 2, 3)])])
    told = {r.key: r for r in outcome.records if r.topic == TOPICS.catalogue}
    one, two, three = told[b"i1"], told[b"i2"], told[b"i3"]
    remove = add_hook(lambda name, details: strangers.append(int(details["partition"])) if name == "stranger" else None)
    try:
        gone = [one._replace(value=None), two._replace(value=None)]
        odd = [one._replace(value=value) for value in (b"?", encode(_click(1)), b'{"type":"item_update","item":"i1"}')]
        _read_back(intake, [one, two, three, *gone, two, *odd, one._replace(value=None)], 4)
    finally:
        remove()
    assert strangers == [4, 4, 4]
    filled = _filled(intake.apply([_batch(0, [_click(n) for n in (1, 2, 3)])]))
    assert filled == {"e1": {}, "e2": {"year": 1.0}, "e3": {"year": 1.0}}


def test_a_catalogue_that_is_full_takes_no_item_more(tmp_path: Path) -> None:
    """It says so, goes on, and keeps what it has up to date: its memory does not grow with what comes."""
    intake, left_out = Intake(TOPICS, SOURCES, COUNTS, tmp_path, catalogue_bytes=60_000), list[int]()
    intake.open(2, SOURCES[2], 0)
    intake.open(0, SOURCES[0], 0)
    remove = add_hook(
        lambda name, details: left_out.append(int(details["items"])) if name == "catalogue_full" else None
    )
    sizes = []
    try:
        for turn in range(40):
            updates = [ItemUpdate(f"i{turn}-{n}", {"year": 1.0}, 7, "e") for n in range(100)]
            outcome = intake.apply([_batch(2, updates, first=turn * 100)])
            assert len(_of_topic(outcome)) == 100
            _read_back(intake, [r for r in outcome.records if r.topic == TOPICS.catalogue])
            sizes.append(intake.catalogue.nbytes)
    finally:
        remove()
    assert max(sizes) < 120_000 and sizes[-1] == sizes[20]
    assert 0 < len(intake.catalogue) < 4000 and sum(left_out) == 4000 - len(intake.catalogue)
    newer = intake.apply([_batch(2, [ItemUpdate("i0-1", {"year": 2.0}, 8, "e")], first=4000)])
    _read_back(intake, [r for r in newer.records if r.topic == TOPICS.catalogue])
    events = [Behaviour("u", item, "rate", 1.0, NOW - 1, item) for item in ("i0-1", "i39-1")]
    assert _filled(intake.apply([_batch(0, events)])) == {"i0-1": {"year": 2.0}, "i39-1": {}}
    _close(intake)


def test_a_tick_of_every_hour_goes_to_every_partition_once(opened: Callable[..., Intake]) -> None:
    """By whoever has the first source partition; again after it was taken over, for the one before may have failed."""
    intake, hour = opened(), NOW // HOUR_MS * HOUR_MS
    records = intake.beat(NOW)
    for side in SIDES:
        assert _told(records, side) == [(p, Tick(hour)) for p in range(COUNTS[side])]
    assert intake.beat(NOW + 1000) == []
    assert len(intake.beat(hour + HOUR_MS)) == 5
    intake.close(0)
    assert intake.beat(hour + 2 * HOUR_MS) == []
    intake.open(0, SOURCES[0], 0)
    assert len(intake.beat(hour + HOUR_MS)) == 5


def test_a_note_says_how_far_a_source_is_and_what_is_remembered(opened: Callable[..., Intake]) -> None:
    """Claims of idle sources come from the worker; nothing is claimed of a source that was never read."""
    intake = opened()
    assert note_of(intake.note(0)) == Note(0, 0, 0, intake.catalogue.nbytes)
    intake.apply([_batch(0, [_click(1)])], {0: NOW + 50, 1: NOW - 7})
    notes = [note_of(intake.note(p)) for p in range(3)]
    assert [n.as_of for n in notes if n is not None] == [NOW + 50, NOW - 7, 0]
    assert {n.catalogue for n in notes if n is not None} == {intake.catalogue.nbytes}
    assert notes[0] is not None and notes[0].memory > 0
    assert as_of([intake.note(p) for p in range(2)]) == NOW - 7
    assert as_of([intake.note(0), None]) == as_of([intake.note(0), ""]) == as_of([intake.note(0), "moved by hand"]) == 0


def test_what_the_broker_refuses_leaves_a_letter_without_content(opened: Callable[..., Intake]) -> None:
    """A good event says that it was refused, a bad one why it is bad; the source goes on behind it."""
    intake = opened()
    for offset, (value, reason) in enumerate([(encode(_click(1)), "refused"), (b"{", "undecodable")]):
        outcome = intake.withheld(_batch(0, [value], first=offset))
        assert outcome.news == [("dead_letter", {"stage": "intake", "reason": reason})]
        (record,) = outcome.records
        letter = DeadLetter.from_record(record.key, record.value, record.headers)
        assert (letter.reason, letter.key, letter.value, letter.length) == (reason, None, None, len(value))
        assert (outcome.offsets, outcome.taken) == ({0: offset + 1}, 1)
        assert intake.partitions[0].meta.offset == offset + 1


def test_memory_is_bounded_and_what_was_forgotten_is_late(opened: Callable[..., Intake]) -> None:
    """The oldest hours go first, and never the hour that it is now: else every event would be late."""
    intake, forgotten = opened(memory_bytes=600_000), list[int]()
    remove = add_hook(
        lambda name, details: forgotten.append(int(str(details["since"]))) if name == "forgotten" else None
    )
    try:
        for hour in range(12):
            append = NOW + hour * HOUR_MS
            events = [_click(n, append - n) for n in range(hour * 10_000, hour * 10_000 + 3000)]
            outcome = intake.apply([_batch(0, events, first=hour * 3000, append=append)])
            assert len(_ids(outcome, "user")) == 3000
            held = sum(owned.sets.nbytes for owned in intake.partitions.values())
            assert held <= 600_000
    finally:
        remove()
    since = max(forgotten)
    assert NOW < since <= NOW + 11 * HOUR_MS and since % HOUR_MS == 0
    old, kept = _click(1, since - 1), _click(2, since)
    end = NOW + 11 * HOUR_MS
    outcome = intake.apply([_batch(0, [old, kept], first=40_000, append=end)])
    assert _ids(outcome, "user") == ["e2"]
    (letter,) = [r for r in outcome.records if r.topic == TOPICS.dead_letters]
    assert DeadLetter.from_record(letter.key, letter.value, letter.headers).reason == "late"
    since = intake.partitions[0].sets.since
    intake.flush()
    intake = opened(memory_bytes=600_000)
    assert intake.partitions[0].sets.since == since
    note = note_of(intake.note(0))
    assert note is not None and note.since == since


def test_a_source_that_lags_loses_nothing_to_the_memory_of_another(opened: Callable[..., Intake]) -> None:
    """Its events are old by the clock and young by its own log: those of the other source are the older ones."""
    intake = opened(memory_bytes=600_000)
    for hour in range(12):
        append = NOW + hour * HOUR_MS
        events = [_click(n, append - n) for n in range(hour * 10_000, hour * 10_000 + 3000)]
        intake.apply([_batch(0, events, first=hour * 3000, append=append)])
    assert intake.partitions[0].sets.since > NOW
    late = [_click(n, NOW - n) for n in range(100)]
    outcome = intake.apply([_batch(1, late, append=NOW)])
    assert len(_ids(outcome, "user")) == 100 and intake.partitions[1].sets.since == 0


def test_one_hour_that_is_larger_than_the_memory_is_kept(opened: Callable[..., Intake]) -> None:
    """There is nothing to give: the operator is to raise the bound."""
    intake = opened(memory_bytes=1000)
    outcome = intake.apply([_batch(0, [_click(n) for n in range(2000)])])
    assert len(_ids(outcome, "user")) == 2000
    assert _ids(intake.apply([_batch(0, [_click(1), _click(2001)], first=2000)]), "user") == ["e2001"]


def test_identities_are_kept_for_as_long_as_duplicates_are_not_late(opened: Callable[..., Intake]) -> None:
    """And the margin of the clocks; then memory and disk are given back."""
    intake = opened()
    intake.apply([_batch(0, [_click(1, NOW - 1)])])
    intake.flush()
    for days in range(1, 4):
        intake.apply([_batch(0, [_click(days + 1, NOW + days * DAY_MS)], first=days, append=NOW + days * DAY_MS)])
        intake.flush()
    sets = intake.partitions[0].sets
    assert sets.since == NOW + 3 * DAY_MS - DAY_MS - DUPLICATE_MARGIN_MS
    assert len(sets) == 2
    stored = [hour for hour, _ in intake.partitions[0].store.blobs()]
    assert all((hour + 1) * HOUR_MS > sets.since for hour in stored) and len(np.unique(stored)) == 2
