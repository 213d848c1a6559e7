"""A server process that is told to stop: what was asked is answered, everybody is told, and nobody is reset."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .test_server import SMALL

BODY = json.dumps({"user": "u", "candidates": ["i1", "i2"], "k": 1}).encode()
HEAD = b"POST /v1/rank HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)

REFUSED = (ConnectionRefusedError, ConnectionResetError)  # of a connect: the second where the listener closes during it

SERVER = (
    SMALL
    + """
import time
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import serve
started = time.monotonic()
def ready():
    return Readiness(time.monotonic() - started > 1.0, "not yet", 0)
app = create_app(engine, ready)
print("up", flush=True)
serve(app, port=int(sys.argv[1]), on_ready=lambda address: print("ready at", address, flush=True))
print("ended", flush=True)
"""
)


class Server:
    """A process that serves; `port` is known when it says that it is ready."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", SERVER, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline().strip(), self.process.stdout.readline().strip()]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self) -> None:
        self.process.terminate()

    def ended(self) -> str:
        """The rest of what it printed; it ended by itself and with 0."""
        rest, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return str(rest)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def _answer(connection: socket.socket) -> tuple[int, str | None, bytes]:
    """Status, `connection` header and body of the next response."""
    with contextlib.closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        return response.status, response.headers.get("connection"), response.read()


def _until_it_stops(server: Server) -> None:
    """Wait until new connections are refused: the server has taken note of the signal."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            server.connect().close()
        except REFUSED:
            return
    raise AssertionError("the server goes on accepting")


def test_one_line_says_when_and_where_it_is_ready(server: Server) -> None:
    """Not before `ready` says yes, and only once."""
    assert server.said == ["up", f"ready at http://127.0.0.1:{server.port}"]
    with server.connect() as connection:
        connection.sendall(b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\n")
        assert _answer(connection)[:2] == (200, None)
    server.stop()
    assert server.ended() == "ended\n"


def test_a_request_under_way_is_answered_and_told_to_close(server: Server) -> None:
    """Its head was read before the signal, its body comes after it."""
    with server.connect() as connection:
        connection.sendall(HEAD + BODY[:10])
        time.sleep(0.3)  # until the head is read, most likely; the promise holds either way
        server.stop()
        _until_it_stops(server)
        connection.sendall(BODY[10:])
        status, word, body = _answer(connection)
        assert (status, word) == (200, "close") and b"hits" in body
        assert connection.recv(1) == b""
    assert server.ended() == "ended\n"


def test_a_kept_connection_has_one_more_answer(server: Server) -> None:
    """A client that asks after the signal on the connection that it has: lookups are answered, /ready says no, both say
    close."""
    with server.connect() as asking, server.connect() as probing:
        for connection in (asking, probing):
            connection.sendall(HEAD + BODY)
            assert _answer(connection)[:2] == (200, None)
        server.stop()
        _until_it_stops(server)
        asking.sendall(HEAD + BODY)
        assert _answer(asking)[:2] == (200, "close") and asking.recv(1) == b""
        probing.sendall(b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\n")
        status, word, body = _answer(probing)
        assert (status, word, json.loads(body)["reason"]) == (503, "close", "stopping") and probing.recv(1) == b""
    assert server.ended() == "ended\n"


def test_an_idle_connection_is_ended_and_not_reset(server: Server) -> None:
    """Its end is seen as an end, also by a client whose next request is on its way just then."""
    with server.connect() as used, server.connect() as fresh:
        used.sendall(HEAD + BODY)
        assert _answer(used)[0] == 200
        server.stop()
        for connection in (used, fresh):
            assert connection.recv(1) == b""
            connection.sendall(HEAD)
            connection.sendall(BODY)  # raises where the first was answered with a reset
        assert server.ended() == "ended\n"


def test_a_peer_that_never_ends_does_not_hold_the_server(server: Server) -> None:
    """A body that does not come has its bound, and so has a connection whose peer ignores its end."""
    with server.connect() as slow, server.connect() as deaf:
        slow.sendall(HEAD + BODY[:10])
        deaf.sendall(HEAD + BODY)
        assert _answer(deaf)[0] == 200
        server.stop()
        assert server.ended() == "ended\n"


def test_clients_in_full_flow_see_no_error(server: Server) -> None:
    """Each keeps its connection, opens another when it is told to, and stops when none is taken: no answer is lost on
    the way."""
    lost: list[Any] = []
    last_words: list[str | None] = []

    def ask() -> None:
        word: str | None = None
        while True:
            try:
                connection = server.connect()
            except REFUSED:
                break
            with connection:
                word = None
                while word is None:
                    try:
                        connection.sendall(HEAD + BODY)
                        status, word, _ = _answer(connection)
                        assert status == 200
                        time.sleep(0.002)
                    except Exception as error:  # noqa: BLE001 - whatever it is, a client would have seen it
                        lost.append(error)
                        return
        last_words.append(word)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    time.sleep(0.5)
    server.stop()
    for asker in askers:
        asker.join(30)
    assert lost == [] and last_words == ["close"] * 4
    assert server.ended() == "ended\n"
