"""Readiness and liveness of a worker process: a line when the one changes, and answers over HTTP."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from forebay.cli import status as status_module
from forebay.cli.readiness import Liveness, Readiness
from forebay.cli.sourceverbs import resume
from forebay.cli.status import MOST_REQUESTS, Status
from forebay.errors import ConfigError, ForebayError, UsageError


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Worker:
    """A worker that waits for what it is told."""

    def __init__(self, name: str, waits: str) -> None:
        self.name, self.waits, self.turned_at = name, waits, 100.0
        self.why, self.stands, self.asked = "", list[str](), list[str]()

    def not_ready(self) -> str:
        return self.waits

    def paused(self) -> str:
        return self.why

    def resume(self, topic: str) -> bool:
        self.asked.append(topic)
        return topic in self.stands


def _status(waits: Callable[[], str] = str, stands: Callable[[], str] = str, text: bytes = b"a_metric 1\n") -> Status:
    return Status(waits, stands, lambda accept: (text, f"text/plain; for={accept}"))


def _of(readiness: Readiness) -> Status:
    return Status(readiness.waits, str, lambda accept: (b"", ""), readiness.paused, readiness.resumed)


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


def test_a_source_that_stands_still_is_told_and_leaves_the_process_ready() -> None:
    """The others are read; and a roll-out that would mend it must not wait for it."""
    user, intake = Worker("user worker", ""), Worker("intake", "")
    intake.why = "t is paused: x"
    with _of(Readiness([user, intake], "")).served_at("127.0.0.1:0") as url:
        assert _asked(f"{url}/ready") == (200, {"ready": True, "reason": "intake: t is paused: x"})
        user.waits = "joining the group"
        assert _asked(f"{url}/ready") == (503, {"ready": False, "reason": "user worker: joining the group"})


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


def test_a_source_is_resumed_over_http(capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that an operator types: every worker of the process is asked, and those that stood still are
    named."""
    intake, user = Worker("intake, slot 0", ""), Worker("user worker", "")
    intake.stands = ["t.a b/ü"]
    with _of(Readiness([intake, user], "")).served_at("127.0.0.1:0") as url:
        resume("t.a b/ü", url)
        assert capsys.readouterr().out == "t.a b/ü is read again by: intake, slot 0\n"
        resume("t.a b/ü", url.removeprefix("http://"), as_json=True)
        assert json.loads(capsys.readouterr().out) == {"topic": "t.a b/ü", "workers": ["intake, slot 0"]}
        assert intake.asked == user.asked == ["t.a b/ü"] * 2
        with pytest.raises(ForebayError, match="does not stand still"):
            resume("t.other", url)
        for path in ("/ready", "/sources//resume", "/sources/a/b/resume", "/sources/a/resume?x", "/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}{path}", data=b"", timeout=10)
            assert refused.value.code == 404
            refused.value.close()
        assert intake.asked[-1] == "t.other"


def _open(url: str, said: bytes) -> socket.socket:
    """A connection that has sent so much of a request."""
    port = int(url.rpartition(":")[2])
    one = socket.create_connection(("127.0.0.1", port), timeout=20)
    one.sendall(said)
    return one


def _is_closed(one: socket.socket) -> bool:
    """Whether the other side ends it without an answer."""
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True


def test_so_many_are_answered_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that say nothing cost a bounded number of threads, and whoever asks when one of them has ended is
    answered."""
    monkeypatch.setattr(status_module, "REQUEST_S", 600.0)
    with _status().served_at("127.0.0.1:0") as url:
        before = threading.active_count()
        mute = [_open(url, b"GET /ready HTTP/1.0\r\n") for _ in range(MOST_REQUESTS)]
        for _ in range(10):
            with _open(url, b"") as one_more:
                assert _is_closed(one_more)
        assert threading.active_count() - before <= MOST_REQUESTS
        for one in mute:
            one.close()
        for _ in range(200):  # each is known to have ended when its thread has read that
            try:
                assert _asked(f"{url}/ready")[0] == 200
                break
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
        else:
            pytest.fail("nobody is answered any more")


def test_a_client_that_never_ends_its_request_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no reason to go on: the time is that of the whole request."""
    monkeypatch.setattr(status_module, "REQUEST_S", 0.5)
    with _status().served_at("127.0.0.1:0") as url, _open(url, b"GET /ready HTTP/1.0\r\nX: ") as slow:
        slow.settimeout(0.1)
        for _ in range(200):
            try:
                slow.sendall(b"x")
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it goes on and on")


def test_a_client_that_goes_away_is_no_news_and_a_fault_of_ours_is(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither is a traceback on standard error, where a supervisor looks for what ended a process."""
    gone, fail = threading.Event(), threading.Event()

    def metrics(accept: str) -> tuple[bytes, str]:
        assert gone.wait(20)
        if fail.is_set():
            raise ValueError("a bug")
        return b"x" * (16 << 20), "text/plain"

    with caplog.at_level(logging.DEBUG, "forebay"), Status(str, str, metrics).served_at("127.0.0.1:0") as url:
        for told in ("went away", "a request failed: ValueError('a bug')"):
            one = _open(url, b"GET /metrics HTTP/1.0\r\n\r\n")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what waits is dropped
            one.close()
            gone.set()
            for _ in range(400):
                if any(told in record.getMessage() for record in caplog.records):
                    break
                time.sleep(0.05)
            else:
                pytest.fail(f"nobody said: {told}")
            fail.set()
    assert [r.levelname for r in caplog.records if "status: " in r.getMessage()] == ["DEBUG", "ERROR"]
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize("address", ["[::1]:0", "::1:0"])
def test_an_address_may_be_of_ipv6(address: str) -> None:
    """The URL that is told is one that can be asked."""
    with _status().served_at(address) as url:
        assert url.startswith("http://[::1]:")
        assert _asked(f"{url}/ready")[0] == 200


@pytest.mark.parametrize("status", ["nowhere", "host:", "host:99999", "host:x"])
def test_a_place_where_no_worker_can_be_is_refused(status: str) -> None:
    """Before anybody is asked."""
    with pytest.raises(UsageError):
        resume("t", status)


def test_nobody_who_answers_is_an_error(unused: int) -> None:
    """With the flag that the worker should have had."""
    with pytest.raises(ForebayError, match=r"no worker answers.*--status"):
        resume("t", f"127.0.0.1:{unused}")


@pytest.fixture
def unused() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:x", "nowhere.invalid:80", ""])
def test_an_address_that_cannot_be_is_named(address: str) -> None:
    """Before any worker starts."""
    with pytest.raises(ConfigError, match="--status"), _status().served_at(address):
        pass
