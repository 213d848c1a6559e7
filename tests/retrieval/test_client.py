"""The client against a real server, and against servers that misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from forebay.errors import (
    BadRequest,
    ConfigError,
    DeadlineExceeded,
    GenerationUnavailable,
    Overloaded,
    ServerUnavailable,
)
from forebay.retrieval.client import Client
from forebay.retrieval.messages import ErrorBody, RankRequest, Readiness, RetrieveRequest
from forebay.retrieval.server import create_app, serving


@pytest.fixture
def states() -> list[Readiness]:
    """What `ready` says: each is said once, the last one for good."""
    return [Readiness(True)]


@pytest.fixture
def url(node: Any, states: list[Readiness]) -> Iterator[str]:
    with serving(create_app(node.engine, lambda: states.pop(0) if len(states) > 1 else states[0])) as address:
        yield address


@contextmanager
def _peer(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener whose every connection is handed to `answer` on one thread, then closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        answer(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_the_client_reads_as_in_the_readme(url: str, node: Any) -> None:
    """rank, iterate, freshness, retrieve with a deny list."""
    with Client(url, timeout_s=10) as client:
        top = client.rank("u", candidates=["i1", "i2", "i3"], k=2)
        assert [hit.item for hit in top] == [
            hit.item for hit in node.engine.rank(RankRequest("u", ["i1", "i2", "i3"], 2))
        ]
        assert top.generation == "g1" and top.segments["recent"].state == "fresh"
        assert top.segments["recent"].as_of == node.now_ms
        similar = client.retrieve("u", k=5, deny=["i1"])
        assert similar == node.engine.retrieve(RetrieveRequest("u", 5, ["i1"]))
        assert client.rank("u", ["i1"], explain=True).hits[0].shares is not None


def test_entities_and_readiness(url: str, node: Any, states: list[Readiness]) -> None:
    """Ids with slashes, spaces and other letters arrive as they are; not ready is an answer, not an error."""
    node.put("item", ["a/b ü?#%2F"])
    with Client(url, timeout_s=10) as client:
        assert client.entity("item", "a/b ü?#%2F").known
        stored = client.entity("user", "u", vectors=True)
        assert stored == node.engine.entity("user", "u", vectors=True)
        assert client.ready() == Readiness(True)
        states[:] = [Readiness(False, "warming up")]
        assert client.ready() == Readiness(False, "warming up")


def test_each_refusal_has_its_own_error(url: str, states: list[Readiness]) -> None:
    """The server's words are in the message."""
    with Client(url, timeout_s=10) as client:
        with pytest.raises(GenerationUnavailable, match="g1 is"):
            client.rank("u", ["i1"], generation="g2")
        with pytest.raises(BadRequest, match="k is -1"):
            client.rank("u", ["i1"], k=-1)
        states[:] = [Readiness(False, "12 s behind")]
        with pytest.raises(ServerUnavailable, match="12 s behind"):
            client.rank("u", ["i1"])


def test_a_retry_waits_for_a_server_that_gets_ready(url: str, states: list[Readiness]) -> None:
    """As many as were asked for, and no more."""
    no = Readiness(False, "not yet")
    with Client(url, timeout_s=10, retries=2) as client:
        states[:] = [no, no, Readiness(True)]
        assert len(client.rank("u", ["i1"])) == 1
        states[:] = [no, no, no, Readiness(True)]
        with pytest.raises(ServerUnavailable, match="not yet"):
            client.rank("u", ["i1"])


def test_one_client_serves_many_threads(url: str, node: Any) -> None:
    """Every caller gets its own answer."""
    with Client(url, timeout_s=30) as client, ThreadPoolExecutor(8) as pool:
        items = [f"i{n % 30}" for n in range(200)]
        answers = list(pool.map(lambda item: client.rank("u", [item], 1), items))
    assert [answer.hits[0].item for answer in answers] == items


def test_nobody_there_is_server_unavailable() -> None:
    """A refused connection is told from a slow one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client(address, timeout_s=10) as client, pytest.raises(ServerUnavailable, match="no connection"):
        client.rank("u", ["i1"])


def test_silence_and_dripping_are_both_deadline_exceeded() -> None:
    """The time is for the whole call: a server that sends a byte now and then cannot stretch it."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
    stop = threading.Event()

    def silent(connection: socket.socket) -> None:
        stop.wait(30)

    def dripping(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while not stop.wait(0.05):
            connection.sendall(b"x")

    for answer in (silent, dripping):
        stop.clear()
        with _peer(answer) as address:
            with Client(address, timeout_s=0.3) as client, pytest.raises(DeadlineExceeded, match="300 ms"):
                client.rank("u", ["i1"])
            stop.set()


def test_a_connection_that_was_closed_while_idle_costs_nothing() -> None:
    """The server hung up on a kept connection: the call is sent again on a new one, without a retry being allowed."""
    served = []

    def answer(connection: socket.socket) -> None:
        served.append(connection.recv(65536))
        body = b"\x81\xa5ready\xc3"
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        if len(served) == 1:
            served.append(connection.recv(65536))  # the next call is on its way, and meets the end of the connection

    with _peer(answer) as address, Client(address, timeout_s=10) as client:
        assert client.ready().ready
        assert client.ready().ready
    assert len(served) == 3 and all(served)


def test_an_answer_from_something_else_is_not_believed() -> None:
    """A proxy's HTML, with either status, is ServerUnavailable."""
    for status in (b"200 OK", b"502 Bad Gateway"):

        def answer(connection: socket.socket, status: bytes = status) -> None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 %b\r\ncontent-length: 6\r\n\r\n<html>" % status)

        with _peer(answer) as address, Client(address, timeout_s=10) as client, pytest.raises(ServerUnavailable):
            client.rank("u", ["i1"])


def test_the_server_is_told_what_is_left_of_the_time() -> None:
    """And no more than that."""
    seen = []

    def answer(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))

    with _peer(answer) as address, Client(address, timeout_s=7) as client, pytest.raises(ServerUnavailable):
        client.ready()
    (line,) = [line for line in seen[0].split(b"\r\n") if line.startswith(b"forebay-deadline-ms: ")]
    assert 1 <= int(line.split()[1]) <= 7000


@pytest.mark.parametrize("url", ["forebay:8080", "ftp://forebay", "", "http://", "http://a:b:c"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    """Not at the first lookup."""
    with pytest.raises(ConfigError):
        Client(url)


def test_an_age_is_counted_from_as_of(url: str, node: Any) -> None:
    """By the given clock or this machine's."""
    with Client(url, timeout_s=10) as client:
        segment = client.rank("u", ["i1"]).segments["taste"]
    assert segment.age_ms(node.now_ms + 40) == 40
    age = segment.age_ms()
    assert age is not None and abs(age - (time.time() * 1000 - node.now_ms)) < 60_000


def test_an_overloaded_server_is_not_asked_again() -> None:
    """Whatever `retries` says: the same load once more helps nobody."""
    body = msgspec.msgpack.encode(ErrorBody("overloaded", "more is asked than can be answered in time"))
    asked: list[bytes] = []

    def busy(connection: socket.socket) -> None:
        asked.append(connection.recv(1 << 16))
        connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    with (
        _peer(busy) as address,
        Client(address, timeout_s=10, retries=5) as client,
        pytest.raises(Overloaded, match="more is asked"),
    ):
        client.rank("u", ["i1"])
    assert len(asked) == 1
