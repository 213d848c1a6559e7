"""HTTP by hand over a socket: what a client of good manners cannot say."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

BODY = b'{"user":"u","candidates":["i1","i2"],"k":2}'


def connect(url: str, timeout: float = 20) -> socket.socket:
    """A connection to the server at `url`; nothing waits on it for longer than `timeout`."""
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=timeout)


def post(body: bytes = BODY, *, path: str = "/v1/rank", headers: str = "", length: int | None = None) -> bytes:
    """A whole request, or one whose body is shorter than it says."""
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n{headers}\r\n".encode() + body


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body (as JSON) of the next response."""
    with contextlib.closing(http.client.HTTPResponse(_Unbuffered(connection))) as response:  # type: ignore[arg-type]
        response.begin()
        data = response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(data) if data else None


class _Unbuffered:
    """Reads not a byte of the answer behind this one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def makefile(self, mode: str) -> Any:
        return self._connection.makefile("rb", buffering=0)


def error(connection: socket.socket) -> tuple[int, str]:
    """Status and error code of the next response."""
    status, _, body = answer(connection)
    return status, body["error"]


def whole(connection: socket.socket) -> tuple[int, bytes]:
    """Status and all the bytes of the next response."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += connection.recv(1)
    length = int(data[data.index(b"content-length: ") + 16 :].split(b"\r\n", 1)[0])
    while length:
        data += (part := connection.recv(length))
        length -= len(part)
    return int(data[9:12]), data


def ended(connection: socket.socket) -> bool:
    """Whether the server ends the connection, before the socket's timeout. What it says before is read over."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def send(connection: socket.socket, *parts: bytes) -> bool:
    """Send all of it; False where the server had closed before."""
    try:
        for part in parts:
            connection.sendall(part)
    except ConnectionError:
        return False
    return True
