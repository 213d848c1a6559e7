"""Where a worker's state comes from: the folder of its machine, one beside it, or a Checkpoint. Over the memory log."""

from __future__ import annotations

import logging
import shutil
import threading

import pytest

from forebay.errors import CheckpointError, StoreCorrupt, StoreLeads, StoreLocked, StoreMissing
from forebay.store.checkpoints import Checkpoints, about
from forebay.store.partitionstore import PartitionStore
from forebay.streams.worker.source import Source

from .installed import NEVER, TOPIC, TOPICS, Digests, Installation, Undisturbed


def test_an_empty_machine_takes_over(here: Installation, digests: Digests, undisturbed: Undisturbed) -> None:
    """The newest Checkpoint, then the log from there, silently: the same bytes as if nothing had happened."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first, each_ms=61_000)  # every partition has had its turn
    here.send(40)
    here.turn(first, times=2)
    here.kill(first)
    shutil.rmtree(here.folder / "one")
    told = here.log.end(TOPICS.vectors("g1", "user"), 0)
    second = here.worker(here.folder / "two")
    kept = Checkpoints(str(here.place))
    assert all(kept.load(of, kept.names(of)[0]).offset > 0 for of in kept.of_scope("g1"))
    moved = digests(second)
    assert here.log.end(TOPICS.vectors("g1", "user"), 0) >= told
    assert moved == undisturbed()


def test_a_checkpoint_is_made_of_each_partition_every_so_often_and_of_what_has_moved(here: Installation) -> None:
    """One at a time, and none of a partition that stands where it stood."""
    worker, kept = here.worker(here.folder / "one"), Checkpoints(str(here.place))

    def offsets() -> list[list[int]]:
        return [[kept.load(of, name).offset for name in kept.names(of)] for of in kept.of_scope("g1")]

    assert offsets() == [[0], [0]]
    here.send(8)
    here.turn(worker, times=30, each_ms=1_000)
    assert offsets() == [[0], [0]]
    here.send(8)
    here.turn(worker, times=45, each_ms=1_000)
    seen = offsets()
    assert all(len(found) == 2 and found[0] > 0 for found in seen)
    here.turn(worker, times=70, each_ms=1_000)
    assert offsets() == seen
    here.send(8)
    here.turn(worker, times=70, each_ms=1_000)
    assert all(found[0] > before[0] and found[1] == before[0] for found, before in zip(offsets(), seen, strict=True))
    assert not list((here.folder / "one").glob(".snapshot-*"))
    worker.leave()


def test_a_paused_worker_s_lock_does_not_stop_its_successor(
    here: Installation, digests: Digests, undisturbed: Undisturbed
) -> None:
    """On one machine: the successor's folder is another one, filled from a Checkpoint. When the lock is gone, the
    folder that came less far goes."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first, each_ms=61_000)
    here.forget(first)  # it is paused, and its partitions are given away; its stores are open
    second = here.worker(here.folder / "one", "b")
    here.send(40)
    here.turn(second)
    assert sorted(p.name for p in (here.folder / "one").glob("user-*")) == [
        "user-0", "user-0~1", "user-1", "user-1~1",
    ]  # fmt: skip
    here.kill(second)
    for partition in list(first.stage.partitions):
        first.stage.close(partition)
    third = here.worker(here.folder / "one", "b")
    here.turn(third)
    assert sorted(p.name for p in (here.folder / "one").glob("user-*")) == ["user-0~1", "user-1~1"]
    assert digests(third) == undisturbed()


def test_without_checkpoints_a_lock_is_an_error(here: Installation) -> None:
    """There is nothing else to go on from."""
    first = here.worker(here.folder / "one", plain=True)
    here.send(8)
    here.turn(first)
    here.forget(first)
    second = here.worker(here.folder / "one", "b", plain=True)
    with pytest.raises(StoreLocked):
        here.turn(second)
    here.kill(first)
    here.kill(second)


def test_a_store_that_does_not_open_is_set_aside(
    here: Installation, digests: Digests, undisturbed: Undisturbed
) -> None:
    """The Checkpoint takes its place, and whoever wants to know why finds the damaged one."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first, each_ms=61_000)
    here.kill(first)
    (here.folder / "one" / "user-1" / "CURRENT").write_bytes(b"not this")
    second = here.worker(here.folder / "one")
    assert digests(second).keys() == {0, 1}
    assert (here.folder / "one" / ".damaged-user-1" / "CURRENT").read_bytes() == b"not this"
    third = here.worker(here.folder / "one")
    assert digests(third) == undisturbed()


def test_without_a_checkpoint_a_damaged_store_is_an_error(here: Installation) -> None:
    """It is left where it is."""
    first = here.worker(here.folder / "one")
    here.turn(first)
    here.kill(first)
    (here.folder / "one" / "user-1" / "CURRENT").write_bytes(b"not this")
    second = here.worker(here.folder / "one", place=here.folder / "nothing")
    with pytest.raises(StoreCorrupt, match="forebay checkpoints list"):
        here.turn(second)
    here.kill(second)
    assert (here.folder / "one" / "user-1" / "CURRENT").read_bytes() == b"not this"


@pytest.mark.parametrize("away_s, fetched", [(300, False), (3000, True)])
def test_a_folder_that_fell_behind_by_much_is_replaced(
    away_s: int, fetched: bool, here: Installation, digests: Digests, undisturbed: Undisturbed
) -> None:
    """What a partition's former owner of last week still has is folded on from where it stands, or not used."""
    first = here.worker(here.folder / "one")
    here.send(16)
    here.turn(first)
    here.kill(first)
    second = here.worker(here.folder / "two")
    here.turn(second, each_ms=away_s * 1000 // 12)
    here.send(16)
    here.turn(second, each_ms=away_s * 1000 // 12)
    here.kill(second)
    third = here.worker(here.folder / "one")
    here.turn(third, times=2)
    # The folder's own name is free again when it is found to be behind, and the next one is taken.
    assert (here.folder / "one" / "user-0~1").exists() == fetched
    assert digests(third) == undisturbed()


def test_a_checkpoint_says_what_its_store_is_of(here: Installation) -> None:
    """Also right after a restore, when memory is ahead of the store; and the restored state is written by itself."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first)
    here.kill(first)
    second, checkpoints = here.worker(here.folder / "two"), Checkpoints(str(here.place))
    for turn in range(12):
        here.turn(second, times=1, each_ms=61_000)
        for of in checkpoints.of_scope("g1"):
            newest = checkpoints.load(of, checkpoints.names(of)[0])
            checkpoints.fetch(newest, folder := here.folder / f"fetched-{turn}-{of.partition('/')[2]}")
            with PartitionStore.open(folder, create=False) as store:
                meta = store.meta()
            assert meta is not None and meta.offset == newest.offset
    assert all(checkpoints.load(of, checkpoints.names(of)[0]).offset > 0 for of in checkpoints.of_scope("g1"))
    second.leave()


def test_a_checkpoint_that_came_less_far_replaces_nothing(here: Installation) -> None:
    """Not even a folder that the log no longer reaches back to: an Intake goes on from it, past the hole."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first)
    first.finish()
    here.kill(first)
    second = here.worker(here.folder / "one")
    source = Source(TOPIC, 0, TOPIC)
    found = second._stores.find(0, source, lambda: None, NEVER)
    assert found.owned is not None and found.checkpoints is None
    at = found.owned.meta.offset
    taken = second._stores.take(0, source, found, at, at + 5, lambda: None, NEVER)
    assert taken.owned is found.owned and taken.checkpoints and taken.checkpoints[0].offset < at
    here.kill(second)


def test_a_checkpoint_behind_the_folder_takes_its_place_never(
    here: Installation, digests: Digests, undisturbed: Undisturbed
) -> None:
    """The one that is ahead does not arrive. The next one is behind the folder, and the log begins at the folder."""
    first = here.worker(here.folder / "one")
    here.send(16)
    here.turn(first, each_ms=61_000)
    first.finish()
    here.kill(first)
    shutil.copytree(here.folder / "one", here.folder / "behind")
    again = here.worker(here.folder / "one")
    here.send(40)
    here.turn(again, each_ms=1_000_000)
    here.kill(again)
    kept = Checkpoints(str(here.place))
    for of in kept.of_scope("g1"):
        newest, older = (kept.load(of, name) for name in kept.names(of))
        only = {file.sha256 for file in newest.files} - {file.sha256 for file in older.files}
        for name in only:
            (here.place / of / "files" / name).unlink()
    second = here.worker(here.folder / "behind")
    for partition, name in enumerate(second.stage.names):
        found = second._stores.find(partition, source := Source(TOPIC, partition, TOPIC), lambda: None, NEVER)
        assert found.owned is not None
        at, done = found.owned.meta.offset, here.log.end(TOPIC, partition)
        taken = second._stores.take(partition, source, found, done, at, lambda: None, NEVER)
        assert taken.owned is not None and taken.owned.meta.offset == at
        assert (here.folder / "behind" / name).exists()
        second.stage.close(partition)
    assert digests(second) == undisturbed()


def test_a_checkpoint_that_does_not_open_gives_way_to_an_older_one(
    here: Installation, digests: Digests, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are what was written, and are no store."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first, each_ms=61_000)
    first.finish()
    kept = Checkpoints(str(here.place))
    for partition, owned in first.stage.partitions.items():
        copy = here.folder / "copy"
        meta = owned.snapshot(copy)
        (copy / "CURRENT").write_bytes(b"not this")
        for name in kept.names(of := f"g1/user-{partition}"):
            if kept.load(of, name).offset == meta.offset:
                (here.place / of / f"{name}.json").unlink()
        kept.save(copy, about(of, meta, here.now_ms))
        shutil.rmtree(copy)
    here.kill(first)
    second = here.worker(here.folder / "two")
    with caplog.at_level(logging.WARNING):
        here.turn(second)
    assert caplog.text.count("does not open") == 2
    assert digests(second) == undisturbed()


def test_a_damaged_checkpoint_gives_way_to_an_older_one(
    here: Installation, digests: Digests, undisturbed: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is held against its hashes."""
    first = here.worker(here.folder / "one")
    for _ in range(3):
        here.send(40)
        here.turn(first, each_ms=61_000)
    here.kill(first)
    kept = Checkpoints(str(here.place))
    newest, older = (kept.load("g1/user-0", name) for name in kept.names("g1/user-0"))
    only = {file.sha256 for file in newest.files} - {file.sha256 for file in older.files}
    for name in only:
        path = here.place / "g1/user-0/files" / name
        path.unlink()
        path.write_bytes(b"not this")
    second = here.worker(here.folder / "two")
    with caplog.at_level(logging.WARNING):
        here.turn(second)
    assert "is not what was written" in caplog.text
    assert digests(second) == undisturbed()


def test_a_place_that_does_not_answer_is_waited_for(
    here: Installation, digests: Digests, undisturbed: Undisturbed
) -> None:
    """The partition whose state is to come from there stands still; the other one goes on."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first, each_ms=61_000)
    here.kill(first)
    shutil.rmtree(here.folder / "one" / "user-1")
    second = here.worker(here.folder / "one")
    names, second._stores._checkpoints.names = second._stores._checkpoints.names, _away  # type: ignore[union-attr]
    here.send(40)
    here.turn(second)
    assert second.not_ready().startswith(f"{TOPIC}[1] waits: nobody answers (there)")
    assert second.report().restoring == 1
    assert second.stage.partitions.keys() == {0}
    assert second.progress()[0].committed == here.log.end(TOPIC, 0)
    here.turn(second, each_ms=1_000_000)  # longer than a broker may be away
    here.send(8)
    here.turn(second)
    assert second.progress()[0].committed == here.log.end(TOPIC, 0)
    second._stores._checkpoints.names = names  # type: ignore[union-attr]
    here.turn(second)
    assert second.not_ready() == ""
    assert digests(second) == undisturbed()


def test_a_place_that_cannot_be_written_to_is_told_and_work_goes_on(
    here: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, and nothing is left beside the stores."""
    first = here.worker(here.folder / "one")
    save, first.keeper._checkpoints.save = first.keeper._checkpoints.save, _away  # type: ignore[union-attr]
    here.send(40)
    with caplog.at_level(logging.WARNING):
        here.turn(first, each_ms=61_000)
    assert "no checkpoint of g1/user-0 at offset" in caplog.text
    assert not list((here.folder / "one").glob(".snapshot-*"))
    first.keeper._checkpoints.save = save  # type: ignore[union-attr]
    here.send(40)
    here.turn(first, each_ms=61_000)
    kept = Checkpoints(str(here.place))
    assert all(kept.load(of, kept.names(of)[0]).offset > 0 for of in kept.of_scope("g1"))
    first.finish()
    first.leave()


def test_a_group_that_was_set_back_is_refused(here: Installation) -> None:
    """The Checkpoint has what the group would read again: folded twice, it would count twice."""
    first = here.worker(here.folder / "one")
    for _ in range(3):
        here.send(40)
        here.turn(first, each_ms=61_000)
    here.kill(first)
    here.log.group(TOPICS.group("g1", "user"), 2).offsets[0] = 1
    second = here.worker(here.folder / "two")
    with pytest.raises(StoreLeads, match="the group at 1"):
        here.turn(second)
    here.kill(second)


def test_a_start_without_state_anywhere_is_refused_before_it_joins(here: Installation) -> None:
    """The state of a generation that was built from history is not in the log, and half of it is not the whole."""
    with pytest.raises(StoreMissing, match="Name the place that has its checkpoints"):
        here.worker(here.folder / "one", place=here.folder / "nothing")
    assert here.log.group(TOPICS.group("g1", "user"), 2).members == []


def test_what_a_killed_process_left_on_its_way_goes(here: Installation) -> None:
    """By the number of a process that is gone; what belongs to one that runs stays."""
    for name in (".arriving-999999999-3.user-0", ".snapshot-999999999-user-0", ".snapshot-1-user-0"):
        (here.folder / "one" / name).mkdir(parents=True)
    worker = here.worker(here.folder / "one")
    assert [p.name for p in (here.folder / "one").glob(".*")] == [".snapshot-1-user-0"]
    here.kill(worker)


def test_a_place_that_hangs_keeps_nobody(
    here: Installation, monkeypatch: pytest.MonkeyPatch, digests: Digests, undisturbed: Undisturbed
) -> None:
    """It is given up after a time, the loop turning meanwhile; and it is not asked for what is here."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first, each_ms=61_000)
    here.kill(first)
    monkeypatch.setattr("forebay.streams.worker.stores.SILENCE_S", 0.3)
    second, over, asked = here.worker(here.folder / "one"), threading.Event(), list[str]()
    checkpoints = second._stores._checkpoints
    assert checkpoints is not None
    names = checkpoints.names

    def hang(of: str) -> list[str]:
        asked.append(of)
        over.wait(60)
        return []

    checkpoints.names = hang  # type: ignore[method-assign]
    here.send(8)
    here.turn(second)
    assert second.not_ready() == "" and not asked
    second._drop()  # as after a transaction that was aborted
    here.turn(second)
    assert second.not_ready() == "" and not asked
    here.kill(second)

    third, turns = here.worker(here.folder / "two"), list[float]()
    third._stores._checkpoints.names = hang  # type: ignore[union-attr]
    turned, third._turned = third._turned, lambda: (turns.append(1), turned())  # type: ignore[method-assign,assignment]
    here.turn(third, times=2)
    assert sorted(asked) == ["g1/user-0", "g1/user-1"] and len(turns) > 3
    assert "nothing arrived for 0 s" in third.not_ready()
    over.set()
    third._stores._checkpoints.names = names  # type: ignore[union-attr]
    assert digests(third) == undisturbed()


def test_a_partition_that_waited_half_restored_is_ready_when_it_is_restored(here: Installation) -> None:
    """What it waited for is there, and no new record has to come for the worker to say so."""
    first = here.worker(here.folder / "one")
    here.send(40)
    here.turn(first)
    here.kill(first)
    shutil.rmtree(here.folder / "one")
    second, reasons = here.worker(here.folder / "two"), {0: "no schema"}
    second.stage.waits = lambda batches: {p: r for p, r in reasons.items() if p in {b.partition for b in batches}}  # type: ignore[method-assign]
    here.turn(second)
    assert second.not_ready() == f"{TOPIC}[0] waits: no schema" and second.stage.partitions.keys() == {1}
    reasons.clear()
    here.turn(second)
    assert second.not_ready() == "" and second.stage.partitions.keys() == {0, 1}
    here.kill(second)


def test_checkpoints_that_cannot_be_pruned_are_made_all_the_same(
    here: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    """A place may let nobody remove anything. That is told, and no Checkpoint is made again for it."""
    first = here.worker(here.folder / "one")
    first.keeper._checkpoints.prune = _away  # type: ignore[union-attr,assignment]
    here.send(40)
    with caplog.at_level(logging.WARNING):
        here.turn(first, times=40, each_ms=10_000)
    assert "older checkpoints of g1/user-0 stay: nobody answers" in caplog.text
    assert "no checkpoint" not in caplog.text
    kept = Checkpoints(str(here.place))
    assert [len(kept.names(of)) for of in kept.of_scope("g1")] == [2, 2]
    here.kill(first)


def _away(*_: object) -> list[str]:
    raise CheckpointError("nobody answers", where="there")
