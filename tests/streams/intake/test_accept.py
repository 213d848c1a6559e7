"""Accepting many records at once is accepting them one by one."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from forebay.clock import HOUR_MS, MINUTE_MS
from forebay.errors import EventError
from forebay.events import Behaviour, ItemUpdate, UserProfile, encode
from forebay.segments.blocks.build import events_of
from forebay.streams.intake.accept import Accepted, Acceptor, Rules
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.intake.plain import read_one
from forebay.streams.origin import Origin
from forebay.streams.routing import partitions_of
from forebay.streams.worker.batch import PartitionBatch

from .records import canonical, mutated

SOURCES = ("behaviour/0", "behaviour/1", "shop.clicks/7")
NOW = 1_790_000_000_000
PARTITIONS = {"user": 3, "item": 2}


@pytest.fixture
def acceptor() -> Acceptor:
    """Of three sources, with the usual rules."""
    return Acceptor(SOURCES)


def _sets() -> dict[int, HourSets]:
    return {source: HourSets() for source in range(len(SOURCES))}


def _batch(source: int, values: list[bytes | None], start: int = 0, append: int = NOW) -> PartitionBatch:
    count = len(values)
    return PartitionBatch(source, [b"key"] * count, values, range(start, start + count), [append] * count)


def _one_by_one(batches: list[PartitionBatch], seen: set[Any], since: dict[int, int]) -> tuple[list[Any], Counter[Any]]:
    """The events as blocks have them, and (source, offset, reason) of what is refused: the plain way. Before `since`
    (ms, by source) it is not known what was seen."""
    accepted, refused = [], Counter[Any]()
    for batch in batches:
        for value, offset, append in zip(batch.values, batch.offsets, batch.append_times, strict=True):
            try:
                event: Any = read_one(value)
                time = append if event.time is None else event.time
                name = event.id or f"{SOURCES[batch.partition].replace('/', '-')}-{offset}"
                event = msgspec.structs.replace(event, time=time, id=name, attributes=_sorted(event.attributes))
                if time > append + 5 * MINUTE_MS:
                    raise EventError("future", "")
                if isinstance(event, Behaviour):
                    if append - time > 24 * HOUR_MS or time < since[batch.partition]:
                        raise EventError("late", "")
                    if (batch.partition, event.user, time, name) in seen:
                        continue
                    seen.add((batch.partition, event.user, time, name))
                    value_ = round(event.value * 1000) / 1000
                    own = _sorted(event.item_attributes)
                    event = msgspec.structs.replace(event, value=value_, item_attributes=own)
                accepted.append(event)
            except EventError as error:
                refused[batch.partition, offset, error.reason] += 1
    return accepted, refused


def _sorted(attributes: Any) -> Any:
    return dict(sorted(attributes.items()))


def _events(acceptor: Acceptor, found: Accepted, side: Any) -> dict[int, list[Any]]:
    blocks = acceptor.blocks(found, side, PARTITIONS[side])
    return {home: [e for block in parts for e in events_of(block)] for home, parts in blocks.items()}


def _record(pick: random.Random, sent: list[bytes]) -> bytes | None:
    """Mostly good, around now; some again, some odd."""
    if sent and pick.random() < 0.1:
        return pick.choice(sent)
    if pick.random() < 0.02:
        return None
    value = canonical(pick)
    if pick.random() < 0.2:
        return mutated(value, pick)
    try:
        event = read_one(value)
    except EventError:
        return value
    moment = NOW + pick.choice([-1, -HOUR_MS, -23 * HOUR_MS, -25 * HOUR_MS, MINUTE_MS, HOUR_MS]) + pick.randrange(-9, 9)
    value = encode(msgspec.structs.replace(event, time=pick.choice([moment, moment, None])))
    sent.append(value)
    return value


@pytest.mark.parametrize("seed", range(8))
def test_many_at_once_are_accepted_as_one_by_one(seed: int, acceptor: Acceptor) -> None:
    """Events of three sources in three calls: the same ones and in the same order in both sides' logs, and the same
    letters; some sources have forgotten some hours in between."""
    pick, sets, seen, sent = random.Random(seed), _sets(), set[Any](), list[bytes]()
    for call in range(3):
        for known in sets.values():
            known.forget(pick.choice([0, 0, NOW - 24 * HOUR_MS, NOW - HOUR_MS - 3, NOW - HOUR_MS + 3]))
        batches = [
            _batch(source, [_record(pick, sent) for _ in range(pick.randrange(1, 150))], 1000 * call, NOW + call)
            for source in pick.sample(range(3), pick.randrange(1, 4))
        ]
        found = acceptor.accept(batches, sets)
        accepted, refused = _one_by_one(batches, seen, {source: known.since for source, known in sets.items()})
        letters = Counter((SOURCES.index(f"{d.topic}/{d.partition}"), d.offset, d.reason) for d in found.letters)
        assert letters == refused
        assert len(found.rows) == len(accepted)
        assert found.duplicates == sum(len(b.offsets) for b in batches) - len(accepted) - refused.total()
        for side, other in (("user", ItemUpdate), ("item", UserProfile)):
            expected: dict[int, list[Any]] = {}
            for event in accepted:
                if not isinstance(event, other):
                    home = int(partitions_of([getattr(event, side).encode()], PARTITIONS[side])[0])
                    expected.setdefault(home, []).append(event)
            assert _events(acceptor, found, side) == expected


def test_a_block_says_where_each_event_comes_from(acceptor: Acceptor) -> None:
    """Source, offset and append time of each."""
    values = [encode(Behaviour("u1", f"i{n}", "rate", 1.0, NOW, f"e{n}")) for n in range(4)]
    batches = [_batch(2, [*values[:2]], 40, NOW + 1), _batch(0, [*values[2:]], 7, NOW + 2)]
    found = acceptor.accept(batches, _sets())
    ((block,),) = acceptor.blocks(found, "user", 1).values()
    assert [block.sources[s] for s in block.numbers("source")] == ["shop.clicks/7"] * 2 + ["behaviour/0"] * 2
    assert block.numbers("offset").tolist() == [40, 41, 7, 8]
    assert block.numbers("append").tolist() == [NOW + 1, NOW + 1, NOW + 2, NOW + 2]


def test_more_names_than_a_block_may_have_make_more_blocks(acceptor: Acceptor) -> None:
    """A producer that makes up names costs blocks, and nothing is lost."""
    values: list[bytes | None] = [
        encode(UserProfile("u1", {f"n{n}-{m}": 1.0 for m in range(60)}, NOW, f"p{n}")) for n in range(20)
    ]
    blocks = acceptor.blocks(acceptor.accept([_batch(0, values)], _sets()), "user", 1)[0]
    assert len(blocks) > 1 and [e.id for b in blocks for e in events_of(b) if isinstance(e, UserProfile)] == [
        f"p{n}" for n in range(20)
    ]


def test_a_dead_letter_names_its_record(acceptor: Acceptor) -> None:
    """Topic, partition and offset, key and value, and who refused it."""
    (letter,) = acceptor.accept([_batch(2, [b"no event"], 5)], _sets()).letters
    assert (letter.topic, letter.partition, letter.offset) == ("shop.clicks", 7, 5)
    assert (letter.key, letter.value, letter.reason, letter.processor) == (b"key", b"no event", "undecodable", "intake")


def test_nothing_is_accepted_of_nothing(acceptor: Acceptor) -> None:
    """No batch, and none but refused ones."""
    for batches in ([], [_batch(0, [None, b""])]):
        found = acceptor.accept(batches, _sets())
        assert not len(found.rows) and acceptor.blocks(found, "item", 2) == {}


def test_what_cannot_be_a_column_is_refused(acceptor: Acceptor) -> None:
    """JSON can write half a character, and any number of names."""
    names = b",".join(b'"n%d":1' % n for n in range(65))
    records: list[bytes | None] = [
        rb'{"type":"behaviour","user":"u","item":"i","action":"\ud800"}',
        rb'{"type":"behaviour","user":"u","item":"i","action":"a","item_attributes":{"g":["\ud800"]}}',
        rb'{"type":"user_profile","user":"\ud800","attributes":{}}',
        b'{"type":"item_update","item":"i","attributes":{%s}}' % names,
        b'{"type":"behaviour","user":"u","item":"i","action":"a","item_attributes":{%s}}' % names,
    ]
    letters = acceptor.accept([_batch(0, records)], _sets()).letters
    assert [d.reason for d in letters] == ["undecodable"] * 3 + ["bad_attribute"] * 2


def test_a_behaviour_whose_duplicates_are_not_known_any_more_is_late() -> None:
    """Though the rules allow it: it might be there already. The moment itself is known, and each source knows for
    itself."""
    acceptor, sets, since = Acceptor(SOURCES, Rules(late_after_ms=48 * HOUR_MS)), _sets(), NOW - 3 * HOUR_MS
    acts: list[bytes | None] = [
        encode(Behaviour("u", "i", "rate", 1.0, time, "e")) for time in (since - 20 * HOUR_MS, since - 1, since, NOW)
    ]
    assert len(acceptor.accept([_batch(0, acts)], sets).rows) == 4
    sets[0].forget(since)
    found = acceptor.accept([_batch(0, acts, 4), _batch(1, acts)], sets)
    assert [(d.topic, d.partition, d.offset, d.reason) for d in found.letters] == [
        ("behaviour", 0, 4, "late"), ("behaviour", 0, 5, "late")
    ]  # fmt: skip
    assert [d.message for d in found.letters] == [
        f"{behind} ms behind the log, past {3 * HOUR_MS}" for behind in (23 * HOUR_MS, 3 * HOUR_MS + 1)
    ]
    assert found.duplicates == 2 and found.rows.tolist() == [4, 5, 6, 7]


def test_updates_are_taken_whatever_has_been_forgotten(acceptor: Acceptor) -> None:
    """The newest one wins, and one that comes twice changes nothing."""
    sets = _sets()
    sets[0].forget(NOW)
    old: list[bytes | None] = [
        encode(UserProfile("u", {}, NOW - 900 * HOUR_MS, "p")), encode(ItemUpdate("i", {}, 1, "p"))
    ]  # fmt: skip
    found = acceptor.accept([_batch(0, [*old, *old])], sets)
    assert found.rows.tolist() == [0, 1, 2, 3] and not found.letters and not found.duplicates


def test_what_is_refused_later_is_not_remembered(acceptor: Acceptor) -> None:
    """An event that is late here and in time there is accepted there."""
    value = encode(Behaviour("u", "i", "rate", 1.0, NOW, "e"))
    sets = _sets()
    late = acceptor.accept([_batch(0, [value], append=NOW + 25 * HOUR_MS)], sets)
    assert [d.reason for d in late.letters] == ["late"] and not len(late.rows)
    assert np.array_equal(acceptor.accept([_batch(0, [value])], sets).rows, [0])


@pytest.mark.parametrize("lacks", [("time",), ("id",), ("time", "id"), ()])
def test_a_copy_of_a_record_is_the_same_event(acceptor: Acceptor, lacks: tuple[str, ...]) -> None:
    """Whatever the event lacks, a copy that says where it was first is completed as the first was, once and again; and
    a later event that lacks the same is another one."""
    event = Behaviour("u", "i", "rate", 1.0, NOW - 5, "e")
    value = encode(msgspec.structs.replace(event, **dict.fromkeys(lacks)))
    first = Origin("behaviour", 1, 40, NOW - 3000)
    copies = [PartitionBatch(1, [b"k"], [value], [n], [NOW + n], [[("x", b""), *first.to_headers()]]) for n in (90, 91)]
    sets = _sets()
    found = [acceptor.accept([batch], sets) for batch in copies]
    assert [len(one.rows) for one in found] == [1, 0] and found[1].duplicates == 1
    (told,) = (e for parts in _events(acceptor, found[0], "user").values() for e in parts)
    assert told.time == (NOW - 3000 if "time" in lacks else event.time)
    assert told.id == ("behaviour-1-40" if "id" in lacks else "e")
    assert found[0].appends.tolist() == [NOW + 90] and found[0].offsets.tolist() == [90]
    # As if the first had been accepted where it stood, or was one of another partition.
    original = PartitionBatch(1, [b"k"], [value], [40], [NOW - 3000])
    assert acceptor.accept([original], sets).duplicates == 1
    stranger = [Origin("behaviour", 0, 40, NOW - 3000).to_headers()]
    other = acceptor.accept([PartitionBatch(1, [b"k"], [value], [92], [NOW + 92], stranger)], sets)
    assert other.duplicates == (not lacks)


def test_a_copy_is_late_by_when_it_came(acceptor: Acceptor) -> None:
    """And not by when the first one did: what was accepted before that is forgotten."""
    first = Origin("behaviour", 0, 1, NOW - 25 * HOUR_MS)
    value = encode(Behaviour("u", "i", "rate", 1.0))
    found = acceptor.accept([PartitionBatch(0, [b"k"], [value], [9], [NOW], [first.to_headers()])], _sets())
    (letter,) = found.letters
    assert letter.reason == "late" and letter.origin == first


def test_a_letter_has_all_of_its_own_record(acceptor: Acceptor) -> None:
    """Of several batches, one of them empty: key, value, place and headers of the one that is refused."""
    good = encode(Behaviour("u", "i", "rate", 1.0, NOW, "e"))
    batches = [
        PartitionBatch(2, [b"a", b"b"], [good, b"{"], [7, 9], [NOW, NOW + 1], [[("h", b"1")], [("h", b"2")]]),
        PartitionBatch(0, [], [], [], []),
        PartitionBatch(1, [b"c"], [None], [4], [NOW + 2]),
    ]
    found = acceptor.accept(batches, _sets()).letters
    assert [(d.reason, d.key, d.value, d.topic, d.partition, d.offset, d.append_time, d.headers) for d in found] == [
        ("undecodable", b"b", b"{", "shop.clicks", 7, 9, NOW + 1, (("h", b"2"),)),
        ("empty", b"c", None, "behaviour", 1, 4, NOW + 2, ()),
    ]


def test_a_history_has_no_log_to_take_a_time_from() -> None:
    """Where it is asked for, an event without a time is refused by a reason of its own; any age will do."""
    acceptor = Acceptor(("history.jsonl/0",), Rules(1 << 62, 5 * MINUTE_MS, needs_time=True))
    events = [
        Behaviour("u", "i", "view", time=1, id="e"), Behaviour("u", "i", "view", id="e"), UserProfile("u", {}),
        Behaviour("u", "i", "view", time=NOW + HOUR_MS, id="e"), ItemUpdate("i", {}, 1),
    ]  # fmt: skip
    accepted = acceptor.accept([_batch(0, [encode(e) for e in events])], {0: HourSets()})
    assert accepted.rows.tolist() == [0, 4] and accepted.duplicates == 0
    assert [(one.offset, one.reason) for one in accepted.letters] == [(1, "no_time"), (2, "no_time"), (3, "future")]


def test_whole_blocks_have_each_event_once(acceptor: Acceptor) -> None:
    """Of all kinds in their order, also where they have more attributes than one block can."""
    events = [
        Behaviour("u", "i", "view", time=NOW, id=f"e{n}", item_attributes={f"a{n}-{k}": 1.0 for k in range(60)})
        for n in range(9)
    ]
    mixed: list[Any] = [UserProfile("u", {"a": 1.0}, NOW, "p"), *events, ItemUpdate("i", {"b": "x"}, NOW, "q")]
    accepted = acceptor.accept([_batch(1, [encode(e) for e in mixed])], _sets())
    blocks = list(acceptor.whole(accepted))
    assert len(blocks) > 1 and [e for block in blocks for e in events_of(block)] == mixed
