"""The commit thread: one at a time, waited for with a bound, and left behind when it does not come back."""

from __future__ import annotations

import threading

import pytest

from forebay.errors import BrokerError, TransactionLost
from forebay.streams.transports.librdkafka import commits
from forebay.streams.transports.librdkafka.commits import Commits

GO_ON = threading.Event()


def test_a_commit_is_settled_once_and_raises_what_it_raised() -> None:
    """Nothing under way is nothing to wait for."""
    one, done = Commits("one", 30.0), []
    assert not one.settle(GO_ON)
    one.submit(lambda: done.append(1))
    assert one.settle(GO_ON) and done == [1] and not one.settle(GO_ON)

    def refused() -> None:
        raise BrokerError("aborted")

    one.submit(refused)
    with pytest.raises(BrokerError, match="aborted"):
        one.settle(GO_ON)
    one.submit(lambda: done.append(2))
    assert one.settle(GO_ON) and done == [1, 2]
    assert one.leave()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_commit_that_does_not_come_back_is_left_behind(stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience, or a grace when the worker is told to stop. The thread ends when its call does."""
    monkeypatch.setattr(commits, "STOP_GRACE_S", 0.2)
    one, release, stop = Commits("one", 3600.0 if stopped else 0.2), threading.Event(), threading.Event()
    if stopped:
        stop.set()
    one.submit(release.wait)
    with pytest.raises(TransactionLost, match="does not come back"):
        one.settle(stop)
    assert not one.leave()
    release.set()
    one._thread.join(30)
    assert not one._thread.is_alive()
