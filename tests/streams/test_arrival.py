"""A start beside a broker that is not there yet."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from forebay.errors import BrokerUnavailable, TopicMissing
from forebay.streams import arrival
from forebay.streams.arrival import once_it_answers


class Broker:
    """It answers the nth question."""

    def __init__(self, answers_at: int) -> None:
        self.asked, self._answers_at = 0, answers_at

    def ask(self) -> str:
        self.asked += 1
        if self.asked < self._answers_at:
            raise BrokerUnavailable("no Kafka broker answers", where="k:9092", do="Run: forebay doctor")
        return "made"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock is one that only waiting moves; the pauses that were made."""
    waited: list[float] = []
    now = [1000.0]

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        waited.append(timeout or 0.0)
        now[0] += waited[-1]
        return self.is_set()

    monkeypatch.setattr(threading.Event, "wait", wait)
    monkeypatch.setattr(arrival.time, "monotonic", lambda: now[0])
    return waited


def test_what_can_be_made_at_once_is_made_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert once_it_answers(Broker(1).ask, 60.0, threading.Event()) == "made"
    assert not caplog.records


def test_a_broker_is_waited_for_and_the_log_says_so_now_and_then(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Pauses grow to five seconds; what is waited for is said at first, and every 15 s."""
    caplog.set_level(logging.INFO)
    broker = Broker(12)
    assert once_it_answers(broker.ask, 60.0, threading.Event()) == "made"
    assert broker.asked == 12 and pauses[:5] == [0.5, 1.0, 2.0, 4.0, 5.0] and max(pauses) == 5.0
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "waiting for the broker at k:9092, for 60 s more: no Kafka broker answers"
    assert said[-1] == f"the broker answers, after {sum(pauses):.0f} s" and 3 <= len(said) <= 5


def test_a_broker_that_stays_away_ends_the_start_by_name(pauses: list[float]) -> None:
    """The last call comes when the time is over, and not before."""
    with pytest.raises(BrokerUnavailable, match=r"waited for 20 s: broker_within") as caught:
        once_it_answers(Broker(1000).ask, 20.0, threading.Event())
    assert sum(pauses) == 20.0 and (caught.value.where, caught.value.do) == ("k:9092", "Run: forebay doctor")


def test_without_patience_it_is_asked_once(pauses: list[float]) -> None:
    broker = Broker(2)
    with pytest.raises(BrokerUnavailable, match=r"^no Kafka broker answers"):
        once_it_answers(broker.ask, 0.0, threading.Event())
    assert broker.asked == 1 and not pauses


def test_who_is_told_to_stop_waits_no_longer() -> None:
    stop, broker = threading.Event(), Broker(1000)
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    assert once_it_answers(broker.ask, 600.0, stop) is None
    assert broker.asked == 1 and time.monotonic() - began < 60


def test_what_waiting_does_not_mend_is_raised_at_once(pauses: list[float]) -> None:
    def missing() -> None:
        raise TopicMissing("no topic", where="k:9092")

    with pytest.raises(TopicMissing):
        once_it_answers(missing, 60.0, threading.Event())
    assert not pauses
