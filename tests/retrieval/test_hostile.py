"""Requests that nobody of good will sends: the server lives, and no input is a fault of the server's."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from forebay.retrieval.client import Client
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import create_app, serving

from .wire import BODY, connect, post

SEEDS = 8
EACH = 120
PIECES = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b" ",
    b":",
    b"%",
    b"%00",
    b"%ff",
    b"..",
    b"//",
    b"?",
    b"#",
    b"\t",
    b"HTTP/1.1",
    b"HTTP/0.9",
    b"HTTP/9.9",
    b"CONNECT h:1 HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"content-length: 5\r\n",
    b"content-length: 99999999999999999999\r\n",
    b"content-length: -1\r\n",
    b"content-length: 1\r\ncontent-length: 2\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip\r\n",
    b"expect: 100-continue\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n",
    b"connection: close\r\n",
    b"host: h\r\n",
    b"forebay-deadline-ms: 1e309\r\n",
    b"forebay-deadline-ms: nan\r\n",
    b"forebay-deadline-ms: -5\r\n",
    b"forebay-deadline-ms: \xff\r\n",
    b"accept: application/msgpack\r\n",
    b"content-type: application/msgpack\r\n",
    b"content-encoding: gzip\r\n",
    b"x: " + b"a" * 3_000 + b"\r\n",
    b"x: y\r\n" * 120,
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"1;a=b\r\nx\r\n",
    b"POST /v1/rank HTTP/1.1\r\n",
    b"GET /v1/entities/user/u HTTP/1.1\r\n",
    b"GET /v1/entities/user/%ff%fe?vectors=1&generation=%ff HTTP/1.1\r\n",
    b"GET /v1/entities/" + b"user/" * 50 + b"?" + b"a=1&" * 100 + b" HTTP/1.1\r\n",
    b"GET http://[::1 HTTP/1.1\r\n",
    b"GET \xc3\xa9 HTTP/1.1\r\n",
    b"HEAD /metrics HTTP/1.1\r\n",
    b"DELETE /health HTTP/1.1\r\n",
    b"POST /v1/retrieve HTTP/1.1\r\n",
    b"GET /ready HTTP/1.1\r\n",
    BODY,
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**63,
    -(2**63),
    1.5,
    1e300,
    "",
    "u",
    "i1",
    "\0",
    "é" * 100,
    "a" * 5_000,
    "\U0010ffff",
    [],
    {},
    [[]],
    ["i1"] * 3_000,
    ["i1", 5],
    [None],
    {"a": {}},
    b"\xff",
]
FIELDS = ["user", "candidates", "k", "generation", "explain", "deny", "odd", ""]


def _request(chance: random.Random) -> bytes:
    """Parts in a random order, a good request that is damaged, odd headers under a line that is none of them, or a good
    head over an odd body."""
    kind = chance.randrange(4)
    if kind == 0:
        return b"".join(chance.choices(PIECES, k=chance.randrange(1, 9)))
    if kind == 1:
        good = bytearray(post() * chance.randrange(1, 4))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(good))
            good[at : at + chance.randrange(3)] = chance.choice(PIECES)[:200]
        return bytes(good)
    if kind == 2:
        lines = [piece for piece in PIECES if piece.endswith(b"\r\n") and piece.count(b"HTTP/") == 0]
        first = chance.choice([piece for piece in PIECES if b" HTTP/1.1" in piece and piece.count(b"\r\n") == 1])
        return first + b"".join(chance.choices(lines, k=chance.randrange(4))) + b"\r\n" + chance.choice([b"", BODY])
    fields = {name: chance.choice(VALUES) for name in chance.sample(FIELDS, chance.randrange(len(FIELDS)))}
    path = chance.choice(["/v1/rank", "/v1/retrieve"])
    if chance.random() < 0.5:
        return post(msgspec.msgpack.encode(fields), path=path, headers="content-type: application/msgpack\r\n")
    body = msgspec.json.encode(fields)
    if chance.random() < 0.3:
        body = b'{"user":"\\ud800","candidates":' + b"[" * chance.randrange(2_000) + body
    return post(body, path=path)


def _told(connection: socket.socket) -> bytes:
    """All that comes back, until the end or a moment of silence."""
    connection.settimeout(0.05)
    said = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(1 << 16):
            said += data
    return said


@pytest.fixture
def url(node: Any) -> Iterator[str]:
    limits = ServerLimits(header_bytes=4_000, body_bytes=50_000, header_s=0.5, body_s=0.5)
    with serving(create_app(node.engine, lambda: Readiness(True), limits=limits)) as address:
        yield address


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_input_is_a_fault_of_the_server(url: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """No 500, nothing in the log, and whoever asks in between is served."""
    chance = random.Random(seed)
    with Client(url, timeout_s=30) as client:
        for turn in range(EACH):
            request = _request(chance)
            over = b"forebay-deadline-ms" in request
            with connect(url) as connection:
                with contextlib.suppress(ConnectionError):
                    while request:  # in pieces, as a network may bring them
                        size = chance.choice([1, 7, 100, 1 << 20])
                        connection.sendall(request[:size])
                        request = request[size:] if size > 7 or chance.random() < 0.2 else b""
                if chance.random() < 0.8:
                    for line in _told(connection).split(b"HTTP/1.1 ")[1:]:
                        assert not line.startswith(b"5") or (over and line.startswith(b"504")), (seed, turn, line[:200])
            if turn % 40 == 0:
                assert len(client.rank("u", ["i1", "i2"], 2)) == 2
        assert len(client.rank("u", ["i1", "i2"], 2)) == 2
    assert not caplog.records, caplog.text
