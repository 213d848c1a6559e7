"""Two generations on one log, by the command line alone: the second is built beside the first, both are fed, and
neither is disturbed by the end of the other's worker."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.events import Behaviour, Event, ItemUpdate, UserProfile, decode, encode
from forebay.segments.blocks.build import block_of
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import codec_of
from forebay.store.partitionstore import PartitionStore
from forebay.streams.build import Target, build
from forebay.streams.publisher import EventPublisher
from forebay.streams.routing import partitions_of
from forebay.streams.topics import Topics

from .conftest import GENRES, SPEC, Installation

PARTITIONS = 2
Newest = Callable[[str, int], dict[str, bytes]]


def _rated(number: int, pick: random.Random) -> Behaviour:
    item = pick.randrange(60)
    own: Any = {"genres": [GENRES[item % 4]]}
    return Behaviour(
        f"u{pick.randrange(30)}", f"i{item}", "rate", 4.0, time.time_ns() // 1_000_000, f"live{number}", own
    )


def _send(installation: Installation, first: int, count: int) -> list[Behaviour]:
    """So many events of now, all acknowledged."""
    pick = random.Random(first)
    events = [_rated(first + n, pick) for n in range(count)]
    with EventPublisher(installation.kafka.bootstrap, topics=Topics(installation.prefix)) as publisher:
        for event in events:
            publisher.send(event)
    return events


def _built(bundle: Bundle, side: Side, events: list[Event], clocks: dict[int, int], folder: Path) -> dict[str, Any]:
    """Entity -> state and vectors without as_of of a build that nothing disturbed, each partition at its clock (ms)."""
    homes = partitions_of([str(getattr(e, side)).encode() for e in events], PARTITIONS)
    for partition, clock in clocks.items():
        mine = [events[n] for n in np.flatnonzero(homes == partition).tolist()]
        none = [0] * len(mine)
        block = block_of(mine, none, none, none, ("t/0",))
        build(bundle, side, [block], Target("t", "t", partition, PARTITIONS, 0, clock, clock, folder))
    return _stored(bundle, side, folder)[0]


def _stored(bundle: Bundle, side: Side, folder: Path) -> tuple[dict[str, Any], dict[int, int]]:
    """Entity -> state and vectors without as_of of partition stores, and the clock (ms) of each partition."""
    found, clocks, codec = {}, {}, codec_of(bundle, side)
    for partition in range(PARTITIONS):
        with PartitionStore.open(folder / f"{side}-{partition}", create=False) as store:
            meta = store.meta()
            assert meta is not None
            clocks[partition] = meta.clock
            for name, (state, vectors) in store.scan():
                rows = np.frombuffer(vectors, codec.dtype).copy()
                for slot in codec.segments:
                    rows["segments"][slot.name]["as_of"] = 0
                found[name.decode()] = (state, rows.tobytes())
    return found, clocks


def _emitted(bundle: Bundle, side: Side, newest: dict[str, bytes]) -> dict[str, bytes]:
    """Entity -> vectors without as_of, of the newest records of a vectors topic."""
    codec = codec_of(bundle, side)
    rows, ids = codec.unpack(list(newest.values()))
    for slot in codec.segments:
        rows["segments"][slot.name]["as_of"] = 0
    return {entity: rows[n : n + 1].tobytes() for n, entity in enumerate(ids)}


@pytest.mark.broker
def test_two_generations_are_fed_from_one_log(
    installation: Installation, lag: Callable[..., int], newest: Newest, clean: Callable[..., list[Event]],
    wait_for: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    """Every count is exact in both, vectors of each are those of an undisturbed build, and g1 does not notice when g2's
    worker is killed."""
    topics, data = Topics(installation.prefix), installation.folder / "data" / "bundles"
    (first,) = data.iterdir()
    history = installation.folder / "history.jsonl"
    live = _send(installation, 0, 200)

    def drained(*generations: str) -> None:
        wait_for(lambda: lag(topics.behaviour, topics.intake_group, PARTITIONS) == 0, "the intake")
        for generation in generations:
            for side in SIDES:
                group = topics.group(generation, side)
                wait_for(lambda: lag(topics.events(side), group, PARTITIONS) == 0, f"{generation} {side}")  # noqa: B023

    drained("g1")
    # Another bundle, and a history that reaches to now: what the log has before the Cut is in the file.
    until_now = tmp_path / "until-now.jsonl"
    until_now.write_bytes(history.read_bytes() + b"".join(encode(e) + b"\n" for e in live))
    installation.forebay("train", "--from", str(history), "--spec", str(SPEC), "--epochs", "1", "--seed", "7")
    (second,) = set(data.iterdir()) - {first}
    installation.forebay("topics", "create", "--generation", "g2")
    installation.forebay("backfill", "--bundle", str(second), "--from", str(until_now), "--generation", "g2")
    installation.start("work", "--generation", "g2", name="work-g2")
    installation.until(lambda: "ready: generation g2" in installation.said("work-g2"))
    live += _send(installation, 200, 200)
    drained("g1", "g2")

    before = installation.said("work")
    installation.kill("work-g2")
    live += _send(installation, 400, 200)
    drained("g1")
    assert installation.saw(live[-1].user, live[-1].time or 0)
    installation.start("work", "--generation", "g2", name="work-g2")
    live += _send(installation, 600, 100)
    drained("g1", "g2")
    said = installation.said("work")[len(before) :]
    assert "error" not in said.lower()
    # All Intakes are one group, in which a commit may meet the rebalance. The sides have a group for each generation.
    again = [line for line in said.splitlines() if "reading the state again" in line]
    assert all("intake: " in line for line in again), again
    assert installation.client.rank(live[-1].user, ["i1", "i2"], k=2).generation == "g1"

    for name in ("work-g2", "work"):  # SIGTERM: everything is written
        child = installation.children.pop(name)
        child.terminate()
        assert child.wait(30) == 0, installation.said(name)
    old = [decode(line) for line in history.read_bytes().splitlines()]
    for side in SIDES:
        told = Counter(e.id for e in clean(topics, side) if isinstance(e, Behaviour))
        assert told == Counter(e.id for e in live)
        other = ItemUpdate if side == "user" else UserProfile
        events: list[Event] = [e for e in [*old, *live] if not isinstance(e, other)]
        for generation, path in (("g1", first), ("g2", second)):
            bundle = Bundle.load(path)
            left, clocks = _stored(bundle, side, installation.folder / "worker" / generation)
            assert left == _built(bundle, side, events, clocks, tmp_path / f"{generation}-{side}")
            emitted = _emitted(bundle, side, newest(topics.vectors(generation, side), PARTITIONS))
            assert emitted.keys() == left.keys()
            assert {e: _without_length(bundle, side, v) for e, v in emitted.items()} == {
                e: _without_length(bundle, side, v) for e, (_, v) in left.items()
            }


def _without_length(bundle: Bundle, side: Side, vectors: bytes) -> bytes:
    rows = np.frombuffer(vectors, codec_of(bundle, side).dtype).copy()
    rows["id_bytes"] = 0
    return rows.tobytes()
