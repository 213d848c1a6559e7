"""One request and its answer over a socket that never blocks, so that a caller may wait for two of them at once."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import time

from forebay.retrieval.http1 import AnswerReader
from forebay.retrieval.servers import Server

_READ = 256 << 10


class Expired(Exception):
    """The time is over."""


class Connection:
    """An open connection to a server. `used_at`: when its last answer was whole, of `time.monotonic`."""

    __slots__ = ("poll", "server", "sock", "used_at")

    def __init__(self, server: Server, deadline: float, tls: ssl.SSLContext | None) -> None:
        """Connect before the deadline. Raises OSError, of which TimeoutError and those of TLS are some. Only the
        resolution of a name cannot be cut short."""
        self.server, self.used_at = server, 0.0
        self.sock = _connected(server, deadline)
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.sock.settimeout(_wait_s(deadline))
                self.sock = tls.wrap_socket(self.sock, server_hostname=server.host)
            self.sock.setblocking(False)
        except BaseException:
            self.sock.close()
            raise
        self.poll = select.poll()
        self.poll.register(self.sock, select.POLLIN)

    def idle(self) -> bool:
        """Whether nothing came since the last answer: an end, or what nobody asked for."""
        return not self.poll.poll(0)

    def close(self) -> None:
        self.sock.close()


class Exchange:
    """A request that was sent over a connection. Raises OSError where that broke."""

    __slots__ = ("answer", "connection", "kept")

    def __init__(self, connection: Connection, request: bytes, most_bytes: int, deadline: float, *, kept: bool) -> None:
        """Send. `kept`: the connection had an answer before, and may be one that the server has closed meanwhile."""
        self.connection, self.kept = connection, kept
        self.answer = AnswerReader(connection.server.url, most_bytes)
        try:
            self._send(request, deadline)
        except BaseException:
            connection.close()
            raise

    @property
    def stale(self) -> bool:
        """Whether a failure of it may be only that of a kept connection: the server has not answered a byte."""
        return self.kept and not self.answer.begun

    def _send(self, request: bytes, deadline: float) -> None:
        sock, rest = self.connection.sock, memoryview(request)
        while rest:
            try:
                rest = rest[sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError) as error:
                events = select.POLLIN if isinstance(error, ssl.SSLWantReadError) else select.POLLOUT
                waiting = select.poll()
                waiting.register(sock, events)
                if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise Expired from None
            except (BrokenPipeError, ConnectionResetError):
                if self.kept:
                    raise
                self.answer.keep = False  # it may have refused the request before it had all of it, and said why
                return

    def read(self) -> bool:
        """Take in what is there; True where the answer is whole."""
        sock, answer = self.connection.sock, self.answer
        try:
            while True:
                if answer.feed(data := sock.recv(_READ)):
                    self.connection.used_at = time.monotonic()
                    return True
                if len(data) < _READ and not isinstance(sock, ssl.SSLSocket):
                    return False
        except (BlockingIOError, ssl.SSLWantReadError):  # TLS keeps what it has read: it is asked until it has no more
            return False

    def close(self) -> None:
        self.connection.close()


def _connected(server: Server, deadline: float) -> socket.socket:
    """The first address that takes a connection. Each has its part of the time: one that says nothing must not use up
    that of the others."""
    addresses = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    problem: OSError = ConnectionError("the name has no address")
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_wait_s(deadline) / (len(addresses) - place))
            sock.connect(address)
            return sock
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            problem = error
    raise problem


def _wait_s(deadline: float) -> float:
    """Seconds, above 0. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "none in time")
    return left
