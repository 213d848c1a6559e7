"""The simulation finds bugs that are put in on purpose: each breaks one promise of the protocol, and some seed ends
with something lost, doubled or claimed too early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from forebay.streams.transports.memory.log import MemoryLog
from forebay.streams.worker.protocol import Worker

from .world import World

SEEDS = 40


def _store_leads(patch: pytest.MonkeyPatch) -> None:
    submit = Worker._submit

    def written_too_early(self: Worker, *rest: Any) -> None:
        submit(self, *rest)
        self.processor.flush()

    patch.setattr(Worker, "_submit", written_too_early)


def _gap_skipped(patch: pytest.MonkeyPatch) -> None:
    def skipped(self: Worker, partition: int) -> None:
        end = self._restoring.pop(partition)
        self.processor.partitions[partition].advance(end, 0)
        self._transport.go_on(partition, end, self._stop)

    patch.setattr(Worker, "_restore", skipped)


def _gap_told_again(patch: pytest.MonkeyPatch) -> None:
    def aloud(self: Worker, partition: int) -> None:
        del self._restoring[partition]
        self._transport.go_on(partition, self.processor.partitions[partition].meta.offset, self._stop)

    patch.setattr(Worker, "_restore", aloud)


def _clock_told(patch: pytest.MonkeyPatch) -> None:
    def now(self: Worker, watermarks: Mapping[int, int]) -> dict[int, int]:
        return dict.fromkeys(self.processor.partitions, self._wall_ms())

    patch.setattr(Worker, "_with_idle", now)


def _state_kept_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "_drop", lambda self: None)


def _nobody_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryLog, "_refusal", lambda self, write: None)


BUGS = {
    "the store leads the group": _store_leads,
    "the gap is not folded": _gap_skipped,
    "the gap is told again": _gap_told_again,
    "a heartbeat tells the clock": _clock_told,
    "state is kept after an abort": _state_kept_after_an_abort,
    "nobody is fenced": _nobody_fenced,
}


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
