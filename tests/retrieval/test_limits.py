"""What one connection may take of a server: bytes, time and places, each with its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import create_app, serving

from .wire import BODY, answer, connect, ended, error, post, send

GET = b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n"


@contextmanager
def limited(node: Any, **limits: Any) -> Iterator[str]:
    """A server with these limits."""
    with serving(create_app(node.engine, lambda: Readiness(True), limits=ServerLimits(**limits))) as url:
        yield url


@pytest.fixture
def small(node: Any) -> Iterator[str]:
    """With 2,000 bytes of headers and 5,000 of body."""
    with limited(node, header_bytes=2_000, headers=30, body_bytes=5_000) as url:
        yield url


def test_headers_without_an_end_are_refused_while_they_come(small: str) -> None:
    """The parser tells of a header when all of it is here: this one never is."""
    with connect(small) as connection:
        send(connection, b"GET /health HTTP/1.1\r\nhost: h\r\nx: ", *[b"a" * 10_000] * 100)
        assert error(connection) == (431, "too_large")
        assert ended(connection)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nhost: h\r\nx: " + b"a" * 2_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 2_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"x:\r\n" * 31 + b"\r\n",
        b"POST /v1/rank HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: a\r\n" * 500 + b"\r\n",
    ],
    ids=["one header", "target", "many", "trailers"],
)
def test_long_headers_are_refused(small: str, head: bytes) -> None:
    """Also where all of them come in one piece, in the target, by their number, and behind a body."""
    with connect(small) as connection:
        send(connection, head)
        assert error(connection) == (431, "too_large")
        assert ended(connection)


def test_what_stands_around_the_chunks_of_a_body_has_an_end(small: str) -> None:
    """A chunk's extension is read over by the parser, which tells nobody of it."""
    with connect(small) as connection:
        send(connection, b"POST /v1/rank HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x=", *[b"a" * 10_000] * 100)
        assert error(connection) == (431, "too_large")
        assert ended(connection)


def test_a_large_body_is_refused_before_it_is_sent(small: str) -> None:
    """By what is announced; whoever asks first, is not told to go on."""
    with connect(small) as connection:
        send(connection, post(b"", length=5_001, headers="expect: 100-continue\r\n"))
        assert error(connection) == (413, "too_large")
        assert ended(connection)


def test_who_asks_before_a_body_is_told_to_go_on(small: str) -> None:
    """`expect: 100-continue`, as curl sends it."""
    with connect(small) as connection:
        send(connection, post(b"", length=len(BODY), headers="expect: 100-continue\r\n"))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        send(connection, BODY)
        assert answer(connection)[0] == 200


def test_an_offer_to_upgrade_is_not_taken(small: str) -> None:
    """Without a body it costs nothing, with one it is refused by name: the parser would lose the body."""
    with connect(small) as connection:
        offer = b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
        send(connection, GET[:-2] + offer + GET, GET)
        assert [answer(connection)[0] for _ in range(3)] == [200] * 3
        send(connection, post(headers="connection: upgrade\r\nupgrade: h2c\r\n"))
        status, _, body = answer(connection)
        assert status == 400 and "upgrade" in body["do"]
        assert ended(connection)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", None),
        (b"GET /health HT", b"HTTP/1.1 408 "),
        (b"GET /health HTTP/1.1\r\nhost: h\r\n", b"HTTP/1.1 408 "),
        (post(BODY[:10], length=len(BODY)), b"HTTP/1.1 408 "),
        (GET, b"HTTP/1.1 200 "),
        (GET + GET[:10], b"HTTP/1.1 200 "),
    ],
    ids=["nothing", "part of a line", "part of the headers", "part of a body", "idle", "a second one in part"],
)
def test_a_half_open_request_is_closed(node: Any, sent: bytes, said: bytes | None) -> None:
    """Wherever it stops, and whoever else is served meanwhile."""
    with limited(node, header_s=0.2, body_s=0.2, idle_s=0.2) as url, ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(20)]
        for connection in connections:
            send(connection, sent)
        for connection in connections:
            if said:
                assert connection.recv(len(said)) == said
            assert ended(connection)
        with connect(url) as connection:
            send(connection, GET)
            assert answer(connection)[0] == 200


@pytest.mark.parametrize("start", [b"GET /health HTTP/1.1\r\nx: ", post(b"", length=5_000)], ids=["headers", "body"])
def test_a_trickle_does_not_hold_a_place(node: Any, start: bytes) -> None:
    """A byte now and then is not what the time is counted from."""
    with limited(node, header_s=0.3, body_s=0.3) as url, connect(url, timeout=0.05) as connection:
        send(connection, start)
        until, over = time.monotonic() + 20, False
        while not over and time.monotonic() < until:
            over = not send(connection, b"a") or ended(connection)
        assert over


def test_a_peer_that_does_not_read_is_cut(node: Any) -> None:
    """Its answers are not kept for it."""
    with limited(node, write_s=0.3, pipelined=100_000) as url, connect(url) as connection:
        over = not send(connection, *[b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n"] * 5_000)
        until = time.monotonic() + 20
        while not over and time.monotonic() < until:
            over = not send(connection, b"G")
            time.sleep(0.05)
        assert over


def test_connections_past_the_limit_are_told_so(node: Any) -> None:
    """And one that leaves makes room."""
    with limited(node, connections=3) as url, ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(3)]
        for connection in connections:
            send(connection, GET)
            assert answer(connection)[0] == 200
        with connect(url) as one_more:
            status, headers, body = answer(one_more)
            assert (status, body["error"], headers["retry-after"]) == (503, "overloaded", "1")
            assert ended(one_more)
        connections[0].close()
        until, status = time.monotonic() + 20, 503
        while status != 200 and time.monotonic() < until:
            with connect(url) as one_more:
                send(one_more, GET)
                status = answer(one_more)[0]
        assert status == 200


def test_requests_behind_one_another_are_answered_in_order_and_bounded(node: Any) -> None:
    """Those that are taken are answered; the connection ends behind them, and the rest are not."""
    with limited(node, pipelined=4) as url:
        with connect(url) as connection:
            send(connection, post() + GET + post(b"{") + GET)
            assert [answer(connection)[0] for _ in range(4)] == [200, 200, 400, 200]
        with connect(url) as connection:
            send(connection, GET * 40)
            statuses = []
            while connection.recv(1, 2):  # a look, and nothing is taken
                statuses.append(answer(connection)[0])
            assert set(statuses) == {200} and 1 <= len(statuses) <= 5


def test_bodies_that_are_held_have_a_limit_together(node: Any) -> None:
    """Many large ones at once are more than one; what was held is let go."""
    with limited(node, held_bytes=10_000) as url, ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(3)]
        for connection in connections:
            send(connection, post(b" " * 4_000, length=4_001))
        told = []
        for connection in connections:
            connection.settimeout(1)
            try:
                told.append(error(connection))
            except TimeoutError:
                connection.close()
        assert told == [(503, "overloaded")]
        with connect(url) as connection:
            for _ in range(5):
                send(connection, post(b" " * 4_000 + BODY))
                assert answer(connection)[0] == 200


def test_what_is_refused_is_counted(small: str) -> None:
    """By the error of its answer."""
    with connect(small) as connection:
        send(connection, b"nonsense\r\n\r\n")
        assert error(connection) == (400, "bad_request")
    with connect(small) as connection:
        send(connection, b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        text = b""
        while data := connection.recv(1 << 16):
            text += data
    assert b'forebay_refused_total{error="bad_request"} 1.0' in text
