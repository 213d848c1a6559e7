"""Requests that nobody of good will sends, drawn by a seed; and a storm of them over many connections at once."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from .wire import BODY, post

AT_ONCE = 64  # connections of a storm
QUIET_S = 0.5  # a server that says nothing for so long waits for more of the request; a busy one answers within it
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
    "year >= 1990",
    "genres == 'Drama' and (",
    "(" * 500 + "k" + ")" * 500,
    [{"user": "u", "candidates": ["i1"]}] * 70,
    {"user.recent": [1.0, 2.0]},
]
FIELDS = [
    "user",
    "candidates",
    "items",
    "requests",
    "k",
    "generation",
    "explain",
    "deny",
    "allow",
    "filter",
    "boost",
    "exclude_seen",
    "segments",
    "vectors",
    "odd",
    "",
]
PATHS = ["/v1/rank", "/v1/retrieve", "/v1/explain", "/v1/batch"]
MSGPACK = "content-type: application/msgpack\r\n"
NUMBERS = ["NaN", "-Infinity", "Infinity", "1e999", "-0", "1.0", "2.5", "0x10", "1" + "0" * 400, "-1e-400", "01", "+1"]
FLOATS = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308]
GOOD = {"user": "u1", "candidates": [f"i{n}" for n in range(200)], "k": 50}
# A type of msgpack, and a length that does not follow: 2^32 - 1 strings, entries, bytes, and bytes of an extension.
CLAIMS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
]


def request(chance: random.Random) -> bytes:
    """One of those below. A large one is rare: it takes as long as a hundred others."""
    kinds: list[Callable[[random.Random], bytes]] = [_parts, _headers, _fields, _numbers, _body, _nested]
    return _large(chance) if chance.random() < 0.01 else chance.choice(kinds)(chance)


def _parts(chance: random.Random) -> bytes:
    """Parts in a random order, or a good request that is damaged."""
    if chance.random() < 0.5:
        return b"".join(chance.choices(PIECES, k=chance.randrange(1, 9)))
    good = bytearray(post() * chance.randrange(1, 4))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(good))
        good[at : at + chance.randrange(3)] = chance.choice(PIECES)[:200]
    return bytes(good)


def _headers(chance: random.Random) -> bytes:
    """Odd headers under a line that is none of them."""
    lines = [piece for piece in PIECES if piece.endswith(b"\r\n") and piece.count(b"HTTP/") == 0]
    first = chance.choice([piece for piece in PIECES if b" HTTP/1.1" in piece and piece.count(b"\r\n") == 1])
    return first + b"".join(chance.choices(lines, k=chance.randrange(4))) + b"\r\n" + chance.choice([b"", BODY])


def _fields(chance: random.Random) -> bytes:
    """A good head over an odd body."""
    fields = {name: chance.choice(VALUES) for name in chance.sample(FIELDS, chance.randrange(len(FIELDS)))}
    path = chance.choice(PATHS)
    if chance.random() < 0.5:
        return post(msgspec.msgpack.encode(fields), path=path, headers=MSGPACK)
    body = msgspec.json.encode(fields)
    if chance.random() < 0.3:
        body = b'{"user":"\\ud800","candidates":' + b"[" * chance.randrange(2_000) + body
    return post(body, path=path)


def _numbers(chance: random.Random) -> bytes:
    """NaN, infinities and numbers of no type where a number, a name or a list is wanted."""
    name, path = chance.choice(["k", "user", "candidates", "deny", "boost"]), chance.choice(PATHS)
    if chance.random() < 0.5:
        value = chance.choice([*FLOATS, [chance.choice(FLOATS)] * 3])
        return post(msgspec.msgpack.encode({**GOOD, name: value}), path=path, headers=MSGPACK)
    number = chance.choice(NUMBERS)
    rest = ",".join(f'"{key}":{msgspec.json.encode(value).decode()}' for key, value in GOOD.items() if key != name)
    return post(f'{{"{name}":{chance.choice([number, f"[{number}]"])},{rest}}}'.encode(), path=path)


def _body(chance: random.Random) -> bytes:
    """A good body, cut off or with bytes changed, under its own length or another; now and then in chunks."""
    packed = chance.random() < 0.5
    body = bytearray((msgspec.msgpack if packed else msgspec.json).encode(GOOD))
    if chance.random() < 0.5:
        del body[chance.randrange(len(body)) :]
    for _ in range(chance.randrange(4) if body else 0):
        body[chance.randrange(len(body))] = chance.randrange(256)
    headers, path = MSGPACK if packed else "", chance.choice(PATHS)
    if chance.random() < 0.1:
        size = chance.choice([b"%x" % len(body), b"%x" % (len(body) + 5), b"-1", b"ffffffffffffffffff", b"g"])
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n{headers}\r\n".encode()
        return head + size + b"\r\n" + bytes(body) + b"\r\n0\r\n\r\n"
    length = len(body) + chance.choice([0, 0, 0, -1, 1, -len(body) // 2, 1_000])
    return post(bytes(body), path=path, headers=headers, length=length)


def _nested(chance: random.Random) -> bytes:
    """Lists in lists, maps in maps, and msgpack that claims more than there is."""
    depth, path = chance.choice([10, 600, 5_000, 50_000]), chance.choice(PATHS)
    if chance.random() < 0.3:
        return post(chance.choice([b"[" * depth, b'{"a":' * depth, b'{"user":' + b"[" * depth]), path=path)
    start = chance.choice([b"", b"\x81\xa4user", b"\x82\xa4user\xa1u\xaacandidates"])
    more = chance.choice([*CLAIMS, b"\x91" * depth, b"\x81\xa1a" * depth, b"\xc1"])
    return post(start + more + b"\xa1x" * chance.randrange(50), path=path, headers=MSGPACK)


def _large(chance: random.Random) -> bytes:
    """A million candidates, as many as a body may hold, as many as a lookup may have, and names of a megabyte."""
    user = b"\x82\xa4user\xa2u1\xaacandidates"
    many = chance.choice([
        lambda: post(user + b"\xdd" + struct.pack(">I", 1_000_000) + b"\xa0" * 1_000_000, headers=MSGPACK),
        lambda: post(user + b"\xdd" + struct.pack(">I", 500_000) + b"\xa1x" * 500_000, headers=MSGPACK),
        lambda: post(b'{"user":"u1","candidates":[' + b'"",' * 340_000 + b'""]}'),
        lambda: post(b'{"user":"u1","candidates":[' + b'"",' * 1_000_000 + b'""]}'),
        lambda: post(msgspec.json.encode({**GOOD, "candidates": [f"i{n}" for n in range(10_000)], "k": 1_000})),
        lambda: post(msgspec.json.encode({**GOOD, "candidates": ["i1"] * 10_001})),
        lambda: post(msgspec.json.encode({**GOOD, "user": "u" * 1_000_000})),
        lambda: post(msgspec.json.encode({**GOOD, "candidates": ["é" * 260_000]})),
        lambda: post(msgspec.json.encode({"requests": [GOOD] * 65}), path="/v1/batch"),
    ])  # fmt: skip
    return many()


@dataclass
class Told:
    """What a storm was answered: counts by status, and what is a fault of the server's, by the number of the
    request."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class _Asking:
    number: int
    left: bytes
    until: float
    over: bool
    said: bytes = b""


def numbered(seed: int, number: int) -> bytes:
    """Request `number` of the storm of a seed, again."""
    return request(random.Random(f"{seed}-{number}"))


def storm(url: str, seed: int, count: int) -> Told:
    """Send `count` requests, each on a connection of its own. One is over when the server ends it or is silent.

    A 503 is none of input (connections, bodies), and neither is a 504 to a request that names its deadline.
    """
    parts, told, sent = urlsplit(url), Told(), 0
    address = (str(parts.hostname), int(parts.port or 0))
    with selectors.DefaultSelector() as selector:
        while sent < count or selector.get_map():
            while sent < count and len(selector.get_map()) < AT_ONCE:
                data = numbered(seed, sent)
                one = socket.create_connection(address, timeout=20)
                one.setblocking(False)
                asking = _Asking(sent, data, time.monotonic() + QUIET_S, b"forebay-deadline-ms" in data)
                selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, asking)
                sent += 1
            for key, ready in selector.select(QUIET_S / 4):
                _go_on(selector, key, ready, told)
            now = time.monotonic()
            for key in [key for key in selector.get_map().values() if key.data.until < now]:
                _end(selector, key, told)
    return told


def _go_on(selector: selectors.BaseSelector, key: selectors.SelectorKey, ready: int, told: Told) -> None:
    one, asking = key.fileobj, key.data
    assert isinstance(one, socket.socket)
    asking.until = time.monotonic() + QUIET_S
    try:
        if ready & selectors.EVENT_WRITE:
            asking.left = asking.left[one.send(asking.left[: 1 << 18]) :] if asking.left else b""
            if not asking.left:
                selector.modify(one, selectors.EVENT_READ, asking)
        if ready & selectors.EVENT_READ:
            if data := one.recv(1 << 18):
                asking.said += data
            else:
                _end(selector, key, told)
    except BlockingIOError:
        return
    except ConnectionError:
        _end(selector, key, told)


def _end(selector: selectors.BaseSelector, key: selectors.SelectorKey, told: Told) -> None:
    one, asking = key.fileobj, key.data
    assert isinstance(one, socket.socket)
    selector.unregister(one)
    one.close()
    answers = asking.said.split(b"HTTP/1.1 ")[1:]
    told.statuses.update(line[:3].decode("latin-1") for line in answers)
    told.statuses["no answer"] += not answers
    for line in answers:
        if line.startswith(b"5") and not (line.startswith(b"503") or (asking.over and line.startswith(b"504"))):
            told.faults.append((asking.number, line[:300]))
