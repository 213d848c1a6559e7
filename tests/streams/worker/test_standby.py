"""State that is kept warm of others' partitions: who keeps what, and that whoever takes over with it goes on as if
nothing had happened. Over the memory log."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import BrokerUnavailable, CheckpointError
from forebay.store.checkpoints import Checkpoints
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.shares import Shares
from forebay.telemetry import add_hook

from .installed import OPTIONS, TOPIC, TOPICS, Digests, Installation, Undisturbed

KEEPS = replace(OPTIONS, standby=1)


@pytest.fixture
def told() -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """What hooks hear."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    remove = add_hook(lambda name, details: found.append((name, dict(details))))
    yield found
    remove()


@pytest.fixture
def pair(here: Installation) -> tuple[Worker, Worker]:
    """A worker that has one partition and keeps the other one's state warm, as another worker has it; each has told its
    vectors and made its Checkpoints."""
    here.options = KEEPS
    first, second = here.worker(here.folder / "one", "a"), here.worker(here.folder / "two", "b")
    here.send(40)
    for _ in range(10):
        for worker in (first, second):
            here.turn(worker, times=1, each_ms=10_000)
    assert [len(w.stage.partitions) for w in (first, second)] == [1, 1]
    assert second.standby is not None
    second.standby.turn()
    return first, second


def _used(told: list[tuple[str, Mapping[str, Any]]]) -> int:
    return sum(name == "standby_used" for name, _ in told)


def _other(worker: Worker) -> int:
    """The partition that it does not own."""
    (own,) = worker.stage.partitions
    return 1 - own


# -- who keeps what


@pytest.mark.parametrize(
    "of, heirs",
    [
        ({"a": [0, 1], "b": [2, 3]}, {"a": {2, 3}, "b": {0, 1}}),
        ({"a": [0, 1], "b": [2, 3], "c": [4]}, {"a": {3, 4}, "b": {1}, "c": {0, 2}}),
        ({"a": [0, 1, 2], "b": []}, {"a": set(), "b": {0, 1, 2}}),
        ({"a": [0, 1]}, {"a": set()}),
    ],
)
def test_each_partition_has_the_heir_that_the_group_would_choose(
    of: dict[str, list[int]], heirs: dict[str, set[int]]
) -> None:
    """What a lost member had goes to who has fewest, one after the other; nobody keeps what is its own."""
    assert {member: Shares(member, of).heirs(1) for member in of} == heirs
    everyone = {p for owned in of.values() for p in owned}
    for member, owned in of.items():
        expected = everyone - set(owned) if len(of) > 1 else set()
        assert Shares(member, of).heirs(len(of)) == expected


def test_who_is_in_no_group_keeps_nothing() -> None:
    """A member that was given up, and does not know."""
    assert Shares("z", {"a": [0], "b": [1]}).heirs(1) == set()


# -- taking over


def test_a_warm_partition_is_taken_over_without_a_checkpoint(
    here: Installation, pair: tuple[Worker, Worker], told: list[tuple[str, Mapping[str, Any]]], digests: Digests,
    undisturbed: Undisturbed,
) -> None:  # fmt: skip
    """The same bytes as if nothing had happened; what came since the last look is folded, and nobody asks the place of
    Checkpoints: it is away."""
    first, second = pair
    moved = _other(second)
    here.send(16)
    for _ in range(3):
        here.turn(first, times=1)
        here.turn(second, times=1)
    second.standby.turn()  # type: ignore[union-attr]
    here.send(16)
    here.turn(first, times=3)
    here.kill(first)
    shutil.rmtree(here.folder / "one")
    second._stores._checkpoints.names = _away  # type: ignore[union-attr,assignment]
    here.turn(second)
    assert _used(told) == 1 and moved in second.stage.partitions
    assert not [details for name, details in told if name == "fetched"]
    (store,) = (here.folder / "two").glob(f"user-{moved}*")
    assert second.stage.partitions[moved].store.path == store  # type: ignore[attr-defined]
    assert digests(second) == undisturbed()


def test_what_was_taken_over_is_there_after_a_crash(
    here: Installation, pair: tuple[Worker, Worker], told: list[tuple[str, Mapping[str, Any]]], digests: Digests,
    undisturbed: Undisturbed,
) -> None:  # fmt: skip
    """Its folder is an ordinary store, right after it was given its name."""
    first, second = pair
    here.send(16)
    here.turn(first, times=3)
    here.kill(first)
    here.turn(second, times=2)
    assert _used(told) == 1
    here.kill(second)
    third = here.worker(here.folder / "two", "b")
    here.turn(third)
    assert _used(told) == 1 and len(third.stage.partitions) == 2
    assert digests(third) == undisturbed()


def test_a_warm_state_goes_before_a_folder_that_was_left_behind(
    here: Installation, pair: tuple[Worker, Worker], told: list[tuple[str, Mapping[str, Any]]], digests: Digests,
    undisturbed: Undisturbed,
) -> None:  # fmt: skip
    """The worker had the partition once, and its folder is of then: it goes."""
    first, second = pair
    here.kill(first)
    here.turn(second)  # both
    third = here.worker(here.folder / "three", "a")
    for _ in range(6):
        here.turn(second, times=1)
        here.turn(third, times=1)
    moved = _other(second)
    left = [path for path in (here.folder / "two").glob(f"user-{moved}*") if (path / "CURRENT").exists()]
    assert left and len(third.stage.partitions) == 1
    here.send(24)
    here.turn(third, times=8, each_ms=61_000)
    second.standby.turn()  # type: ignore[union-attr]
    told.clear()
    here.kill(third)
    here.turn(second)
    assert _used(told) == 1 and not any(path.exists() for path in left)
    assert digests(second) == undisturbed()


def test_a_broker_that_does_not_answer_at_a_takeover_costs_no_warm_state(
    here: Installation, pair: tuple[Worker, Worker], told: list[tuple[str, Mapping[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where the group is cannot be told yet: what is warm waits for it, whatever is looked after meanwhile."""
    first, second = pair
    here.kill(first)

    def silent(partition: int) -> int | None:
        raise BrokerUnavailable("no answer", where="memory")

    with monkeypatch.context() as patch:
        patch.setattr(second._transport, "committed", silent)
        here.turn(second, times=2)
        second.standby.turn()  # type: ignore[union-attr]
    assert _used(told) == 0
    here.turn(second)
    assert _used(told) == 1 and len(second.stage.partitions) == 2
    here.kill(second)


def test_a_standby_never_leads_the_group(here: Installation, pair: tuple[Worker, Worker]) -> None:
    """The clean log is ahead of what the group has committed: it is followed to there, and written to there."""
    first, second = pair
    warm = second.standby._warm[_other(second)]  # type: ignore[union-attr]
    here.send(40)
    second.standby.turn()  # type: ignore[union-attr]
    offsets = here.log.group(TOPICS.group("g1", "user"), 2).offsets
    assert warm.offset == offsets[warm.partition] < here.log.end(TOPIC, warm.partition)
    here.turn(first, times=3)
    second.standby.turn()  # type: ignore[union-attr]
    assert warm.offset == offsets[warm.partition] == here.log.end(TOPIC, warm.partition)
    assert second.report().warm[warm.partition].behind == 0
    here.kill(first)
    here.kill(second)


# -- what is wrong with it


def _gone(here: Installation, second: Worker, folder: Path) -> None:
    shutil.rmtree(folder)


def _of_another_topic(here: Installation, second: Worker, folder: Path) -> None:
    warm = second.standby._warm[_other(second)]  # type: ignore[union-attr]
    warm.source = warm.source._replace(topic_id="another")


@pytest.mark.parametrize("wrong", [_gone, _of_another_topic])
def test_a_standby_that_is_wrong_gives_way_to_a_checkpoint(
    wrong: Callable[[Installation, Worker, Path], None], here: Installation, pair: tuple[Worker, Worker],
    told: list[tuple[str, Mapping[str, Any]]], digests: Digests, undisturbed: Undisturbed,
) -> None:  # fmt: skip
    """Its folder went, or it is of another log: it is thrown away, and nothing else is lost."""
    first, second = pair
    folder = second.standby._warm[_other(second)].folder  # type: ignore[union-attr]
    here.send(16)
    here.turn(first, times=3)
    here.kill(first)
    wrong(here, second, folder)
    here.turn(second)
    assert _used(told) == 0 and [name for name, _ in told if name == "fetched"]
    assert not folder.exists()
    assert digests(second) == undisturbed()


def test_a_standby_that_is_ahead_of_a_group_that_was_set_back_is_left(
    here: Installation, pair: tuple[Worker, Worker], told: list[tuple[str, Mapping[str, Any]]]
) -> None:
    """The Checkpoint of before is what fits."""
    first, second = pair
    moved = _other(second)
    here.kill(first)
    here.log.group(TOPICS.group("g1", "user"), 2).offsets[moved] = 1
    here.turn(second, times=2)
    assert _used(told) == 0 and moved in second.stage.partitions
    here.kill(second)


def test_a_store_that_does_not_open_is_thrown_away_with_what_it_came_of(
    here: Installation, pair: tuple[Worker, Worker]
) -> None:
    """A sorted file that lies here is not what it was: what is fetched next is fetched whole."""
    first, second = pair
    here.send(40)
    here.turn(first, times=14, each_ms=10_000)
    standby = second.standby
    assert standby is not None
    moved = _other(second)
    (base,) = (here.folder / "two").glob(f".standby-b-user-{moved}")
    standby._drop(moved)
    for file in (base / "files").iterdir():
        size = file.stat().st_size
        file.unlink()
        file.write_bytes(b"\0" * size)
    standby.turn()
    assert not base.exists() and moved not in standby._warm
    here.now_ms += 61_000
    standby.turn()
    assert standby._warm[moved].followed
    here.kill(first)
    here.kill(second)


@pytest.mark.parametrize("step", ["fetch", "open", "follow"])
def test_a_crash_between_two_steps_leaves_nothing(
    step: str, here: Installation, digests: Digests, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start removes what was on its way, keeps what is whole by content, and takes over as from nothing."""

    class Killed(BaseException):
        pass

    def killed(*rest: Any, **more: Any) -> Any:
        raise Killed

    here.options = KEEPS
    first, second = here.worker(here.folder / "one", "a"), here.worker(here.folder / "two", "b")
    here.send(40)
    for _ in range(8):
        here.turn(first, times=1, each_ms=10_000)
        here.turn(second, times=1, each_ms=10_000)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "fetch":
            patch.setattr(Checkpoints, "_get", killed)
        elif step == "open":
            patch.setattr(second.stage, "twin", killed)
        else:
            patch.setattr(second._transport, "read", killed)
        second.standby.turn()  # type: ignore[union-attr]
    here.kill(second)
    here.kill(first)
    shutil.rmtree(here.folder / "one")
    (half := here.folder / "two" / ".standby-b-user-0" / "1-0").mkdir(parents=True)
    (half / "000007.sst").write_bytes(b"half a file")  # as kill -9 leaves it
    third = here.worker(here.folder / "two", "b")
    assert not [path for path in (here.folder / "two").glob(".standby-*/*") if path.name != "files"]
    assert digests(third) == undisturbed()


def test_a_slot_that_keeps_nothing_warm_any_more_removes_what_was(
    here: Installation, pair: tuple[Worker, Worker]
) -> None:
    """Its disk is free again; what another slot keeps in the same folder stays."""
    first, second = pair
    here.kill(first)
    here.kill(second)
    (here.folder / "two" / ".standby-z-user-0" / "files").mkdir(parents=True)
    here.options = OPTIONS
    third = here.worker(here.folder / "two", "b")
    assert [path.name for path in (here.folder / "two").glob(".standby-*")] == [".standby-z-user-0"]
    here.kill(third)


# -- what it costs


def test_a_newer_checkpoint_is_taken_when_much_waits_and_travels_in_part(
    here: Installation, pair: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was folded silently is to be encoded by who takes over; a Checkpoint has those vectors. Files that are here
    by content do not come again."""
    first, second = pair
    standby, moved, came = second.standby, _other(second), list[str]()
    assert standby is not None
    before, get = standby._warm[moved], Checkpoints._get
    here.send(40)
    here.turn(first, times=14, each_ms=10_000)

    def noted(self: Checkpoints, of: str, file: Any, *rest: Any) -> None:
        came.append(file.sha256)
        get(self, of, file, *rest)

    monkeypatch.setattr(Checkpoints, "_get", noted)
    standby.turn()
    assert standby._warm[moved] is before and not came  # little waits
    monkeypatch.setattr("forebay.streams.worker.standby.PAIRS", 1)
    here.now_ms += 31_000
    standby.turn()
    after = standby._warm[moved]
    assert after is not before and after.checkpoint.offset > before.checkpoint.offset and not before.folder.exists()
    tables = {f.sha256 for f in before.checkpoint.files if f.name.endswith(".sst")}
    assert tables & {f.sha256 for f in after.checkpoint.files} and not tables & set(came)
    here.kill(first)
    here.kill(second)


def test_a_disk_that_is_nearly_full_keeps_nothing_warm(
    here: Installation, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is owned needs the rest; it is tried again later."""
    monkeypatch.setattr("forebay.streams.worker.standby.FREE_SHARE", 1.0)
    here.options = KEEPS
    first, second = here.worker(here.folder / "one", "a"), here.worker(here.folder / "two", "b")
    here.send(40)
    for _ in range(6):
        here.turn(first, times=1)
        here.turn(second, times=1)
    second.standby.turn()  # type: ignore[union-attr]
    assert "no room for a standby" in caplog.text and not second.report().warm
    here.kill(first)
    here.kill(second)


def test_what_a_worker_gets_meanwhile_is_not_kept_warm_beside_it(
    here: Installation, pair: tuple[Worker, Worker]
) -> None:
    """A look that began before the partition came ends without it."""
    first, second = pair
    standby, moved = second.standby, _other(second)
    assert standby is not None
    warm = standby.take(moved)
    assert warm is not None
    standby.turn()
    assert moved not in standby._warm and not second.report().warm
    warm.discard()
    here.now_ms += 1_000  # it went to another worker after all
    standby.turn()
    assert moved in standby._warm
    here.kill(first)
    here.kill(second)


def test_a_place_that_is_away_costs_what_is_warm_nothing(
    here: Installation, pair: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is followed from the log, and the place is asked again after a while."""
    monkeypatch.setattr("forebay.streams.worker.standby.PAIRS", 0)
    first, second = pair
    standby, moved = second.standby, _other(second)
    assert standby is not None
    standby._checkpoints.names = _away  # type: ignore[method-assign,assignment]
    here.send(16)
    here.turn(first, times=3)
    here.now_ms += 120_000
    standby.turn()
    assert standby._warm[moved].offset == here.log.end(TOPIC, moved)
    assert caplog.text.count("no newer checkpoint") == 1
    standby.turn()
    assert moved in standby._warm and caplog.text.count("no newer checkpoint") == 1
    here.kill(first)
    here.kill(second)


def test_a_twin_s_rows_take_one_partition_s_share_of_the_memory(here: Installation) -> None:
    """However many are owned here."""
    stage = here.processor(here.folder / "one")
    twin = stage.twin()
    assert (twin._most_rows, twin._opened_rows) == (stage._most_rows // 2, stage._most_rows // 2)


def _away(*_: object) -> list[str]:
    raise CheckpointError("nobody answers", where="there")
