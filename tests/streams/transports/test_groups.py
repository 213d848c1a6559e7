"""Asking about groups: a broker that has just started is given time, one that says no is believed."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.errors import BrokerUnavailable
from forebay.streams.connection import kafka_python
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.transports.librdkafka import groups


def _failing(kind: str, times: int) -> Any:
    """A question that a broker refuses so many times, and then answers."""
    asked = iter(range(times + 1))

    def question(admin: Any) -> str:
        if next(asked) < times:
            raise getattr(kafka_python().errors, kind)("not yet")
        return "answer"

    return question


def test_groups_that_are_still_loaded_are_waited_for(kafka: DevKafka) -> None:
    """As of a broker whose coordinator starts; without patience the caller decides."""
    assert groups._asked(kafka.bootstrap, _failing("CoordinatorLoadInProgressError", 3), 10.0) == "answer"
    with pytest.raises(BrokerUnavailable, match="not yet"):
        groups._asked(kafka.bootstrap, _failing("CoordinatorLoadInProgressError", 3))


def test_a_refusal_is_not_asked_for_again(kafka: DevKafka) -> None:
    """Another try would be refused as well."""
    with pytest.raises(BrokerUnavailable, match="not yet"):
        groups._asked(kafka.bootstrap, _failing("GroupAuthorizationFailedError", 1), 10.0)


def test_who_is_alive_is_asked_with_patience(kafka: DevKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, by a worker that starts, and an impatient answer would end it."""
    heard: list[float] = []
    plain = groups._asked

    def asked(bootstrap: str, question: Any, patience_s: float = 0.0) -> Any:
        heard.append(patience_s)
        return plain(bootstrap, question, patience_s)

    monkeypatch.setattr(groups, "_asked", asked)
    groups.alive(kafka.bootstrap)
    assert heard == [groups.PATIENCE_S]
