"""The watchdog: progress is what the group has committed; only a worker with something to read can stall."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from forebay.errors import Stalled
from forebay.streams.worker.watchdog import Progress, Watchdog


class Worker:
    """A worker whose every figure is set by hand."""

    name = "user worker of g1, slot 0"

    def __init__(self) -> None:
        self.now = self.turned_at = 100.0
        self.excused = False
        self.at: dict[int, Progress] = {}
        self.ends: dict[int, int] = {}

    def progress(self) -> Mapping[int, Progress]:
        return dict(self.at)

    def readable_end(self, partition: int) -> int | None:
        return self.ends.get(partition)

    def turn(self, seconds: float) -> None:
        """Time goes on, and the loop with it."""
        self.now += seconds
        self.turned_at = self.now


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def dog(worker: Worker) -> Watchdog:
    """Lets a worker stand still for 60 s."""
    return Watchdog(worker, 60.0, lambda: worker.now)


def test_a_loop_that_turns_without_committing_what_waits_is_stalled(worker: Worker, dog: Watchdog) -> None:
    """And the partition is named, with what waits in it."""
    worker.at, worker.ends = {0: Progress(10, 10), 1: Progress(5, 5, 7)}, {0: 10, 1: 27}
    for _ in range(6):
        dog.check()
        worker.turn(10)
    dog.check()
    worker.turn(1)
    with pytest.raises(Stalled, match=r"20 records wait, and nothing was committed for 61 s.*partition 1"):
        dog.check()


def test_a_backlog_that_shrinks_slowly_is_no_stall(worker: Worker, dog: Watchdog) -> None:
    """Each commit is progress, however few they are."""
    worker.ends = {0: 1000}
    for offset in range(20):
        worker.at = {0: Progress(offset // 2, offset)}
        dog.check()
        worker.turn(25)


def test_a_batch_that_is_applied_and_refused_again_and_again_is_a_stall(worker: Worker, dog: Watchdog) -> None:
    """Its transaction is aborted each time, and the loop turns all the while: only what is committed counts."""
    worker.ends = {0: 1000}
    with pytest.raises(Stalled, match="1,000 records wait"):
        for turn in range(20):
            worker.at = {0: Progress(0, 500 * (turn % 2))}
            dog.check()
            worker.turn(10)


def test_a_restore_and_an_absent_broker_are_not_counted_and_not_forgiven(worker: Worker, dog: Watchdog) -> None:
    """Both have bounds of their own; between two of them the time goes on where it stood."""
    worker.at, worker.ends = {0: Progress(0, 0)}, {0: 10}
    with pytest.raises(Stalled, match="nothing was committed for 65 s"):
        for _ in range(13):
            worker.excused = True
            worker.turn(50)
            dog.check()
            worker.excused = False
            worker.turn(5)
            dog.check()
        pytest.fail("13 times 5 s are more than 60")
    assert worker.now == 100 + 13 * 55


def test_an_idle_worker_never_stalls(worker: Worker, dog: Watchdog) -> None:
    """The last record of a partition may be a transaction's mark, which nobody commits: the met end counts."""
    worker.at, worker.ends = {0: Progress(9, 9, 10)}, {0: 10}
    for _ in range(10):
        dog.check()
        worker.turn(50)


def test_a_met_end_does_not_count_while_a_batch_before_it_is_not_committed(worker: Worker, dog: Watchdog) -> None:
    """The reader is at the end, and the commit hangs."""
    worker.at, worker.ends = {0: Progress(5, 10, 10)}, {0: 10}
    dog.check()
    worker.turn(61)
    with pytest.raises(Stalled, match="5 records wait"):
        dog.check()


def test_a_loop_that_stands_still_is_stalled_whatever_waits(worker: Worker, dog: Watchdog) -> None:
    """Nothing is known of the ends then: the question about them may hang as well."""
    worker.now += 61
    with pytest.raises(Stalled, match="its loop has stood still for 61 s"):
        dog.check()


def test_a_partition_that_comes_back_starts_anew(worker: Worker, dog: Watchdog) -> None:
    """What another worker did with it meanwhile is not this one's account."""
    worker.ends = {0: 100}
    for at in ({0: Progress(1, 1)}, {}, {0: Progress(1, 1)}):
        worker.at = at
        dog.check()
        worker.turn(50)


def test_an_end_that_nobody_tells_is_no_lag(worker: Worker, dog: Watchdog) -> None:
    """Before the first answer."""
    worker.at = {0: Progress(0, 0)}
    for _ in range(5):
        dog.check()
        worker.turn(50)
