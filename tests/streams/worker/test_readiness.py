"""Readiness of a worker process: a line when it changes, and an answer over HTTP."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request

import pytest

from forebay.cli.readiness import Readiness
from forebay.errors import ConfigError


class Worker:
    """A worker that waits for what it is told."""

    def __init__(self, name: str, waits: str) -> None:
        self.name, self.waits = name, waits

    def not_ready(self) -> str:
        return self.waits


def _asked(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error) if error.code == 503 else {}


def test_the_answer_names_what_each_worker_waits_for() -> None:
    """503 with the reason until all are at work, then 200."""
    user, item = Worker("user worker", "joining the group"), Worker("item worker", "")
    readiness = Readiness([user, item], "generation g1")
    with readiness.served_at("127.0.0.1:0") as url:
        assert _asked(f"{url}/ready") == (503, {"ready": False, "reason": "user worker: joining the group"})
        user.waits = ""
        assert _asked(f"{url}/ready") == (200, {"ready": True, "reason": ""})
        assert _asked(f"{url}/other")[0] == 404


def test_one_line_says_that_it_became_ready_and_one_that_it_is_so_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """And none in between, nor before the first time."""
    caplog.set_level(logging.INFO, "forebay")
    worker = Worker("user worker", "joining the group")
    readiness = Readiness([worker], "generation g1, broker 127.0.0.1:9092")
    for waits in ("joining the group", "", "", "waiting for the broker: x", "waiting for the broker: y", "", ""):
        worker.waits = waits
        readiness.look()
    assert [r.getMessage() for r in caplog.records] == [
        "ready: generation g1, broker 127.0.0.1:9092",
        "not ready: user worker: waiting for the broker: x",
        "ready: generation g1, broker 127.0.0.1:9092",
    ]


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:x", "nowhere.invalid:80", ""])
def test_an_address_that_cannot_be_is_named(address: str) -> None:
    """Before any worker starts."""
    with pytest.raises(ConfigError, match="--status"), Readiness([], "").served_at(address):
        pass
