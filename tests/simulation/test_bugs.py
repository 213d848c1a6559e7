"""The simulation finds bugs that are put in on purpose: each breaks one promise of the protocol, and some seed ends
with something lost, doubled or claimed too early."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from forebay.arrays import Ints
from forebay.segments.blocks.schema import ITEM_UPDATE
from forebay.segments.spec import Side
from forebay.store.vectors import VectorStore
from forebay.streams.intake.catalogue import Catalogue
from forebay.streams.intake.fields import Fields
from forebay.streams.intake.intake import Intake
from forebay.streams.intake.note import note_of
from forebay.streams.transports.memory.log import MemoryLog
from forebay.streams.transports.memory.transport import MemoryTransport
from forebay.streams.worker.assignment import Assignment
from forebay.streams.worker.batch import Outcome, PartitionBatch
from forebay.streams.worker.paused import Paused
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.takeover import Takeover

from . import world
from .world import World

SEEDS = 40


def _store_leads(patch: pytest.MonkeyPatch) -> None:
    submit = Worker._submit

    def written_too_early(self: Worker, *rest: Any, **more: Any) -> None:
        submit(self, *rest, **more)
        self.stage.flush()

    patch.setattr(Worker, "_submit", written_too_early)


def _gap_skipped(patch: pytest.MonkeyPatch) -> None:
    def skipped(self: Takeover, partition: int, stop: threading.Event) -> bool:
        end = self._assignment.restoring.pop(partition)
        self._stage.partitions[partition].advance(end, 0)
        self._transport.go_on(partition, end, stop)
        return False

    patch.setattr(Takeover, "restore", skipped)


def _gap_told_again(patch: pytest.MonkeyPatch) -> None:
    def aloud(self: Takeover, partition: int, stop: threading.Event) -> bool:
        del self._assignment.restoring[partition]
        self._transport.go_on(partition, self._stage.partitions[partition].meta.offset, stop)
        return False

    patch.setattr(Takeover, "restore", aloud)


def _clock_told(patch: pytest.MonkeyPatch) -> None:
    def now(self: Assignment, batches: Sequence[PartitionBatch]) -> dict[int, int]:
        return dict.fromkeys(self._stage.partitions, self._wall_ms())

    patch.setattr(Assignment, "claimed", now)


def _state_kept_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "_drop", lambda self: None)


def _identities_not_refilled(patch: pytest.MonkeyPatch) -> None:
    apply = Intake.apply

    def skipped(
        self: Intake, batches: Sequence[PartitionBatch], *rest: Any, aloud: bool = True, **more: Any
    ) -> Outcome:
        if aloud:
            return apply(self, batches, *rest, **more)
        for batch in batches:
            self.partitions[batch.partition].advance(batch.offsets[-1] + 1, 0)
        return Outcome()

    patch.setattr(Intake, "apply", skipped)


def _one_source_speaks_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(world, "as_of", lambda texts: max((note.as_of for t in texts if (note := note_of(t))), default=0))


def _offsets_without_rows(patch: pytest.MonkeyPatch) -> None:
    write = VectorStore.write

    def rows_left_out(self: VectorStore, side: Side, puts: Sequence[Any], *rest: Any) -> None:
        write(self, side, [], *rest)

    patch.setattr(VectorStore, "write", rows_left_out)


def _nobody_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryLog, "_refusal", lambda self, write: None)


def _join_skipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalogue, "fill", lambda self, fields, rows: fields)


def _catalogue_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTransport, "catch_up", lambda self, stop: (part for part in ()))


def _aborted_updates_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalogue, "drop", lambda self: None)


def _older_updates_written(patch: pytest.MonkeyPatch) -> None:
    take = Catalogue.take

    def all_told(self: Catalogue, fields: Fields, rows: Ints) -> Ints:
        take(self, fields, rows)
        return rows[fields.kind[rows] == ITEM_UPDATE]

    patch.setattr(Catalogue, "take", all_told)


def _applied_is_committed(patch: pytest.MonkeyPatch) -> None:
    submit = Worker._submit

    def told_too_early(self: Worker, outcome: Outcome, newest: Mapping[int, int], *, beat: bool) -> None:
        self._assignment.ages.committed(newest)
        submit(self, outcome, newest, beat=beat)

    patch.setattr(Worker, "_submit", told_too_early)


BUGS = {
    "the store leads the group": _store_leads,
    "the gap is not folded": _gap_skipped,
    "the gap is told again": _gap_told_again,
    "a heartbeat tells the clock": _clock_told,
    "state is kept after an abort": _state_kept_after_an_abort,
    "the identities of the gap are not known": _identities_not_refilled,
    "one source speaks for all": _one_source_speaks_for_all,
    "a serving node keeps offsets without rows": _offsets_without_rows,
    "nobody is fenced": _nobody_fenced,
    "behaviours get no item attributes": _join_skipped,
    "events are told before the catalogue is read": _catalogue_not_read,
    "updates of an aborted commit are known": _aborted_updates_kept,
    "what is applied is taken for committed": _applied_is_committed,
    "an older update takes the place of a newer one": _older_updates_written,
}


def _paused_source_is_passed(patch: pytest.MonkeyPatch) -> None:
    move = Paused.move

    def passed(self: Paused, *rest: Any) -> list[int]:
        going_on = [p for p in self._held if self._transport.source(p).topic not in self._paused()]
        for partition, end in self._ends(going_on).items():
            self._stage.partitions[partition].advance(end, 0)
        return move(self, *rest)

    patch.setattr(Paused, "move", passed)


def _paused_source_claims_its_end(patch: pytest.MonkeyPatch) -> None:
    hold = MemoryTransport.hold

    def met(self: MemoryTransport, partitions: Sequence[int]) -> None:
        hold(self, partitions)
        owner: Any = self._owner
        owner._assignment.met_end.update({p: self._end(p) for p in partitions if p in owner.stage.partitions})

    patch.setattr(MemoryTransport, "hold", met)


PAUSE_BUGS = {
    "what waited in a paused source is passed": _paused_source_is_passed,
    "a paused source claims what waits": _paused_source_claims_its_end,
}


@pytest.mark.parametrize("bug", PAUSE_BUGS)
def test_a_bug_of_standing_still_is_found(
    bug: str, simulate: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where schemas break."""
    PAUSE_BUGS[bug](monkeypatch)
    for seed in range(SEEDS):
        try:
            simulate(seed, breaks=True)
        except AssertionError:
            return
    raise AssertionError(f"no seed of {SEEDS} finds that {bug}")


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug: str, simulate: Callable[[int], World], monkeypatch: pytest.MonkeyPatch) -> None:
    """By one of forty seeds."""
    BUGS[bug](monkeypatch)
    for seed in range(SEEDS):
        try:
            simulate(seed)
        except AssertionError:
            return
    raise AssertionError(f"no seed of {SEEDS} finds that {bug}")
