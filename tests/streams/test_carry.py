"""One partition carried over to a bundle with one more segment: the old store and the log give what a replay gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.clock import HOUR_MS
from forebay.events import Behaviour, Event, Tick
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.build import block_of
from forebay.segments.bundle import Bundle
from forebay.segments.growth import Growth
from forebay.segments.history import History
from forebay.segments.spec import SIDES, Side, parse_spec
from forebay.segments.state.ids import Ids
from forebay.segments.training import untrained
from forebay.store.codec import DEFAULT, HELD, codec_of
from forebay.store.ownedpartition import OwnedPartition
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow
from forebay.streams.build import Target, build
from forebay.streams.carry import Carried, Carrier

NOW = 1_790_000_000_000 // HOUR_MS * HOUR_MS
CUT, AS_OF = 17, NOW - 5
LATE = {
    "features": [
        {"last": 4, "of": ["item", "action", "year"]},
        {"count": "genres"},
        {"mean": "value", "bucket": "1h", "over": "2h"},
    ],
    "encoder": {"kind": "attention_pool", "queries": 1, "hidden": 8},
    "dim": 8,
}


def _grown(bundle: Bundle, tables: dict[str, Any], side: str = "user", segment: dict[str, Any] = LATE) -> Bundle:
    """`bundle` with the segment `late` as the first of its side, and a fusion that nobody trained."""
    changed = deepcopy(tables)
    changed[side] = {"late": segment, **changed[side]}
    fresh = untrained(parse_spec(changed), bundle.vocabulary.hashes, seed=7)
    kept = {n: t for n, t in bundle.tensors.items() if not n.startswith(("fusion.", "default."))}
    return Bundle(fresh.spec, {**fresh.tensors, **kept})


@pytest.fixture(scope="module")
def grown(bundle: Bundle, spec_tables: dict[str, Any]) -> Bundle:
    return _grown(bundle, spec_tables)


def _blocks(events: Iterable[Event], size: int = 50) -> list[Block]:
    found = list(events)
    parts = [found[start : start + size] for start in range(0, len(found), size)]
    return [block_of(p, [0] * len(p), range(len(p)), [0] * len(p), ("tests/0",)) for p in parts]


@dataclass(frozen=True)
class Made:
    """An old store, one that was carried over from it, and one that was built from scratch."""

    carried: Carried
    path: Path
    replayed: Path


@pytest.fixture
def carry(tmp_path: Path, bundle: Bundle, grown: Bundle) -> Callable[..., Made]:
    """`carry(events, log=…, side=…, bundle=…)`: of one partition whose old store has `events`, and whose log the
    last `log` of them."""

    def run(
        events: list[Event], *, log: int | None = None, side: Side = "user", new: Bundle = grown, reach_ms: int = 0,
        change: Callable[[PartitionStore], None] = lambda store: None, **more: Any,
    ) -> Made:  # fmt: skip
        targets = {name: Target("events", "t1", 0, 1, CUT, NOW, AS_OF, tmp_path / name) for name in ("old", "replayed")}
        build(bundle, side, _blocks(events), targets["old"])
        build(new, side, _blocks(events), targets["replayed"])
        carrier = Carrier(Growth.between(bundle, new), side, **more)
        kept = events if log is None else events[len(events) - log :]
        path = tmp_path / "carried" / f"{side}-0"
        with PartitionStore.open(targets["old"].path(side), create=False) as old:
            change(old)
            meta = old.meta()
            assert meta is not None
            lacked = carrier.fold(_blocks(kept), meta, tmp_path / "lacked", lambda count: None)
            found = carrier.write(old, lacked, path, reach_ms, lambda count: None)
            if lacked is not None:
                lacked.close()
        return Made(found, path, targets["replayed"].path(side))

    return run


def _rows(path: Path) -> tuple[PartitionMeta, dict[bytes, StoredRow]]:
    with PartitionStore.open(path, create=False) as store:
        meta = store.meta()
        assert meta is not None and not store.pending()
        return meta, dict(store.scan())


def _events(make_history: Callable[..., History], count: int = 500, users: int = 40) -> list[Event]:
    history = make_history(count, until_ms=NOW, users=users)
    acted = sorted(history.behaviours, key=lambda b: b.time)
    return [*history.profiles, *history.items, *acted]


@pytest.mark.parametrize("side", SIDES)
def test_the_store_is_byte_for_byte_that_of_a_replay(
    side: Side, carry: Callable[..., Made], make_history: Callable[..., History]
) -> None:
    """Where the log has everything: state, vectors of all segments and both times; and the place in the log."""
    made = carry(_events(make_history), side=side)
    assert _rows(made.path) == _rows(made.replayed)
    assert made.carried.entities == made.carried.whole == len(_rows(made.path)[1]) > 20


def test_an_item_segment_is_added_as_a_users_is(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle, spec_tables: dict[str, Any]
) -> None:
    """Both sides are one code."""
    segment = {"features": [{"count": "action"}, {"latest": ["year"]}], "encoder": {"kind": "mlp"}, "dim": 8}
    made = carry(_events(make_history), side="item", new=_grown(bundle, spec_tables, "item", segment))
    assert _rows(made.path) == _rows(made.replayed)


def test_what_the_log_forgot_is_missing_of_the_new_segment_alone(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle, spec_tables: dict[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    """The log has the last third: the new blocks and the new vectors are those of a replay of it, and all others those
    of the old store, to the bit."""
    own = {**LATE, "features": [LATE["features"][0], LATE["features"][2]]}  # none that others have
    events, third, grown = _events(make_history, users=150), 170, _grown(bundle, spec_tables, segment=own)
    made = carry(events, log=third, new=grown)
    old, (_, carried) = _rows(tmp_path / "old" / "user-0")[1], _rows(made.path)
    short = Target("events", "t1", 0, 1, CUT, NOW, AS_OF, tmp_path / "short")
    build(grown, "user", _blocks(events[-third:]), short)
    part, before, after = Growth.between(bundle, grown).sides["user"], codec_of(bundle, "user"), codec_of(grown, "user")
    replayed = _rows(short.path("user"))[1]
    assert part.lacks is not None and old.keys() == carried.keys() > replayed.keys()
    different = whole = 0
    for name, row in carried.items():
        state, had = part.new.unpack(row.state), part.old.unpack(old[name].state)
        assert (state[part.target] == had[part.source]).all()
        again = part.new.unpack(replayed[name].state) if name in replayed else np.zeros(part.new.width, np.int64)
        assert (state[part.own] == again[part.own]).all()
        whole += bool(had[1] == again[1])
        vectors, ours = (np.frombuffer(r.vectors, after.dtype)["segments"] for r in (row, replayed.get(name, row)))
        theirs = np.frombuffer(old[name].vectors, before.dtype)["segments"]
        assert all(vectors[s.name].tobytes() == theirs[s.name].tobytes() for s in before.segments)
        assert vectors["late"]["vector"].tobytes() == ours["late"]["vector"].tobytes()
        assert vectors["late"]["as_of"] == AS_OF and (vectors["late"]["flags"] == DEFAULT) == (name not in replayed)
        different += vectors["taste"]["vector"].tobytes() != ours["taste"]["vector"].tobytes()
    assert different > 5  # else the third was everything
    assert (made.carried.entities, made.carried.whole) == (len(carried), whole) and 0 < whole < len(carried)


def test_a_window_within_the_log_is_whole(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle, spec_tables: dict[str, Any]
) -> None:
    """Two hours of a log of four, where the history is of nine: all counts and all vectors are those of a replay. When
    the last event of a window was that is empty now is not known."""
    segment = {**LATE, "features": [{"count": "genres", "bucket": "1h", "over": "2h"}], "encoder": {"kind": "mlp"}}
    new, events = _grown(bundle, spec_tables, segment=segment), _events(make_history)
    log = sum(isinstance(e, Behaviour) and e.time >= NOW - 4 * HOUR_MS for e in events)
    made = carry(events, log=log, new=new, reach_ms=NOW - 4 * HOUR_MS)
    found, replayed = _rows(made.path)[1], _rows(made.replayed)[1]
    part, codec = Growth.between(bundle, new).sides["user"], codec_of(new, "user")
    assert found.keys() == replayed.keys() and made.carried.whole == made.carried.entities
    empty = 0
    for name, row in found.items():
        state, again = (part.new.unpack(r.state)[part.own] for r in (row, replayed[name]))
        assert (state[1:] == again[1:]).all() and (state[0] == again[0] or not again[1:].any())
        empty += not again[1:].any()
        ours, theirs = (np.frombuffer(r.vectors, codec.dtype)["segments"]["late"] for r in (row, replayed[name]))
        assert ours["vector"].tobytes() == theirs["vector"].tobytes()
    assert 0 < empty < len(found)


def test_a_window_that_begins_before_the_log_is_not_whole(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle, spec_tables: dict[str, Any]
) -> None:
    """By a bucket: the first one may begin before the log does."""
    segment = {**LATE, "features": [{"count": "genres", "bucket": "1h", "over": "2h"}], "encoder": {"kind": "mlp"}}
    new, events = _grown(bundle, spec_tables, segment=segment), _events(make_history)
    made = carry(events, log=170, new=new, reach_ms=NOW - 3 * HOUR_MS + 1)
    assert made.carried.whole < made.carried.entities


def test_features_that_are_there_need_no_log(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle, spec_tables: dict[str, Any]
) -> None:
    """Not one event of it is read."""
    segment = {"features": [{"count": "genres"}, {"latest": ["age", "plan"]}], "encoder": {"kind": "mlp"}, "dim": 8}
    made = carry(_events(make_history), log=0, new=_grown(bundle, spec_tables, segment=segment))
    assert _rows(made.path) == _rows(made.replayed) and made.carried.whole == made.carried.entities


def test_pairs_that_wait_in_the_old_store_are_encoded(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle
) -> None:
    """A checkpoint is taken while pairs wait: their vectors are of before, and may not be claimed."""

    def stale(store: PartitionStore) -> None:
        meta, codec = store.meta(), codec_of(bundle, "user")
        assert meta is not None
        for name, row in list(store.scan())[:9]:
            vectors = np.frombuffer(row.vectors, codec.dtype).copy()
            vectors["segments"]["taste"]["vector"] = 99
            store.write(meta=meta, puts=[(name, StoredRow(row.state, vectors.tobytes()))], pending=[(name, 0b100)])

    made = carry(_events(make_history), change=stale)
    assert _rows(made.path) == _rows(made.replayed)


def test_rows_whose_vectors_are_of_other_encoders_are_encoded(
    carry: Callable[..., Made], make_history: Callable[..., History]
) -> None:
    """Of another size, and of another tag."""

    def strange(store: PartitionStore) -> None:
        meta, rows = store.meta(), list(store.scan())
        assert meta is not None
        tagged = bytearray(rows[0][1].vectors)
        tagged[6] ^= 1
        puts = [
            (rows[0][0], StoredRow(rows[0][1].state, bytes(tagged))),
            (rows[1][0], StoredRow(rows[1][1].state, b"short")),
        ]
        store.write(meta=meta, puts=puts)

    made = carry(_events(make_history), change=strange)
    assert _rows(made.path) == _rows(made.replayed)


def test_a_held_vector_keeps_its_as_of(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle, grown: Bundle
) -> None:
    """Law 5: the vector is of before, and the partition's moment is not its."""
    held: list[bytes] = []

    def hold(store: PartitionStore) -> None:
        meta, codec = store.meta(), codec_of(bundle, "user")
        assert meta is not None
        name, row = next(store.scan())
        vectors = np.frombuffer(row.vectors, codec.dtype).copy()
        vectors["segments"]["taste"]["flags"], vectors["segments"]["taste"]["as_of"] = HELD, 12
        store.write(meta=meta, puts=[(name, StoredRow(row.state, vectors.tobytes()))])
        held.append(name)

    made = carry(_events(make_history), change=hold)
    found = np.frombuffer(_rows(made.path)[1][held[0]].vectors, codec_of(grown, "user").dtype)["segments"]
    assert (found["taste"]["as_of"], found["taste"]["flags"]) == (12, HELD)
    assert found["late"]["as_of"] == found["recent"]["as_of"] == AS_OF


def test_other_weights_are_encoded_again_over_the_state_that_is_carried(
    carry: Callable[..., Made], make_history: Callable[..., History], grown: Bundle
) -> None:
    """As a replay with them would; of the log only what the new segment lacks is needed."""
    tensors = {n: t * np.float32(1.5) if n.startswith("user.taste.layers") else t for n, t in grown.tensors.items()}
    other = Bundle(grown.spec, tensors)
    assert other.hash != grown.hash
    made = carry(_events(make_history), new=other)
    assert _rows(made.path) == _rows(made.replayed)


def test_on_another_platform_every_vector_is_encoded(
    carry: Callable[..., Made], make_history: Callable[..., History], bundle: Bundle
) -> None:
    """Those of one platform and those of another one are not mixed within a generation."""

    def elsewhere(store: PartitionStore) -> None:
        meta, codec = store.meta(), codec_of(bundle, "user")
        assert meta is not None
        for name, row in list(store.scan()):
            vectors = np.frombuffer(row.vectors, codec.dtype).copy()
            vectors["segments"]["taste"]["vector"] ^= 1
            store.write(meta=meta, puts=[(name, StoredRow(row.state, vectors.tobytes()))])

    made = carry(_events(make_history), change=elsewhere, anew=True)
    assert _rows(made.path) == _rows(made.replayed)


def test_who_retired_is_not_brought_back_by_the_log(
    tmp_path: Path, make_history: Callable[..., History], bundle: Bundle, spec_tables: dict[str, Any], grown: Bundle
) -> None:
    """The log still has their events: the old store forgot them at a tick, and so does what is folded of the log."""
    tables = deepcopy(spec_tables)
    tables["events"]["retire_users_after"] = "1d"
    old = Bundle(parse_spec(tables), bundle.tensors)
    new = _grown(old, tables)
    days = 3 * 24 * HOUR_MS
    early = [Behaviour("u1", "i1", "view", 1.0, NOW - days, "a"), Behaviour("u2", "i1", "view", 1.0, NOW - days, "b")]
    events = [*early, Tick(NOW - HOUR_MS), Behaviour("u1", "i2", "view", 2.0, NOW - 100, "c")]
    targets = {n: Target("events", "t1", 0, 1, CUT, NOW, AS_OF, tmp_path / n) for n in ("old", "replayed")}
    build(old, "user", _blocks(events), targets["old"])
    build(new, "user", _blocks(events), targets["replayed"])
    carrier = Carrier(Growth.between(old, new), "user")
    with PartitionStore.open(targets["old"].path("user"), create=False) as store:
        meta = store.meta()
        assert meta is not None
        lacked = carrier.fold(_blocks(events), meta, tmp_path / "lacked", lambda count: None)
        found = carrier.write(store, lacked, tmp_path / "carried", 0, lambda count: None)
        assert lacked is not None
        lacked.close()
    assert _rows(tmp_path / "carried") == _rows(targets["replayed"].path("user"))
    assert found == Carried(1, 1)


def test_rows_are_written_part_by_part(
    carry: Callable[..., Made], make_history: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are in memory together, with the same bytes."""
    monkeypatch.setattr("forebay.streams.carry.ROWS", 7)
    adopt, there = OwnedPartition.adopt, list[int]()

    def counted(owned: OwnedPartition, ids: Ids, *rest: Any) -> Any:
        there.append(len(owned))
        assert len(ids) <= 7
        return adopt(owned, ids, *rest)

    monkeypatch.setattr(OwnedPartition, "adopt", counted)
    made = carry(_events(make_history))
    assert _rows(made.path) == _rows(made.replayed)
    assert len(there) > 3 and not any(there)


def test_a_changed_encoder_that_gives_no_number_leaves_no_vector_of_the_old_one(
    carry: Callable[..., Made], make_history: Callable[..., History], grown: Bundle
) -> None:
    """Law 4: what an entity had is of the old encoder, and the new tag would be beside it."""
    broken = {n: t * np.float32("nan") if n.startswith("user.taste.layers") else t for n, t in grown.tensors.items()}
    made = carry(_events(make_history), new=Bundle(grown.spec, broken))
    assert _rows(made.path)[1] == _rows(made.replayed)[1]
