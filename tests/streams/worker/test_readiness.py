"""Readiness and liveness of a worker process: a line when the one changes, and answers over HTTP."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from forebay.cli.readiness import Liveness, Readiness
from forebay.cli.status import Status
from forebay.errors import ConfigError


class Worker:
    """A worker that waits for what it is told."""

    def __init__(self, name: str, waits: str) -> None:
        self.name, self.waits, self.turned_at = name, waits, 100.0

    def not_ready(self) -> str:
        return self.waits


def _status(waits: Callable[[], str] = str, stands: Callable[[], str] = str, text: bytes = b"a_metric 1\n") -> Status:
    return Status(waits, stands, lambda accept: (text, f"text/plain; for={accept}"))


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
    status = _status(waits=Readiness([user, item], "generation g1").waits)
    with status.served_at("127.0.0.1:0") as url:
        assert _asked(f"{url}/ready") == (503, {"ready": False, "reason": "user worker: joining the group"})
        user.waits = ""
        assert _asked(f"{url}/ready") == (200, {"ready": True, "reason": ""})
        assert _asked(f"{url}/other")[0] == 404


def test_metrics_are_given_as_they_are_asked_for() -> None:
    """With their content type, and whatever stands behind the path."""
    with _status().served_at("127.0.0.1:0") as url:
        asked = urllib.request.Request(f"{url}/metrics?x=1", headers={"accept": "openmetrics"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert answer.read() == b"a_metric 1\n"
            assert answer.headers["content-type"] == "text/plain; for=openmetrics"


def test_a_process_is_alive_while_its_threads_turn() -> None:
    """Those of the workers and the one that watches them: each is named when it has stood for as long as a watchdog
    lets it. Not being ready is no reason to be started anew."""
    now = [100.0]
    user, item = Worker("user worker", "waiting for the broker"), Worker("item worker", "")
    liveness = Liveness([user, item], 60.0, lambda: now[0])
    with _status(stands=liveness.stands).served_at("127.0.0.1:0") as url:
        for _ in range(4):
            now[0] += 50
            user.turned_at = item.turned_at = now[0]
            liveness.look()
            assert _asked(f"{url}/health") == (200, {"status": "ok"})
        now[0] += 50
        item.turned_at = now[0]
        liveness.look()
        now[0] += 11
        said = "user worker has stood still for 61 s"
        assert _asked(f"{url}/health") == (503, {"status": "stuck", "reason": said})
        user.turned_at = item.turned_at = now[0] = now[0] + 50
        assert _asked(f"{url}/health")[1]["reason"] == "the watchdog has stood still for 61 s"


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
    with pytest.raises(ConfigError, match="--status"), _status().served_at(address):
        pass
