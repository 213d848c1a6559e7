"""One connection to a server, within its limits: bytes and times of a request, and how many may wait behind it.

A request is taken when all of it is here (connection.py says what becomes of it). Until then nothing is kept of it but
its bytes, which are counted. What goes over a limit is answered where nothing else is under way on the connection, and
ends it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httptools

from forebay.retrieval.access import Access, TokensFile
from forebay.retrieval.admission import Admission
from forebay.retrieval.drain import DrainingConnection, DrainState
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import ErrorBody
from forebay.retrieval.wire import RETRY_AFTER, Headers, header, response

ACCEPTED_S = 0.05  # the first request of a connection that sends within it is charged for its wait to be accepted

_NEVER = math.inf
_BETWEEN, _HEAD, _BODY = range(3)  # where the parser is
FOR_PEOPLE = frozenset({b"/", b"/what-if", b"/inspect.css", b"/inspect.svg"})  # a browser sends no bearer's token
OPEN = frozenset({b"/health", b"/ready", b"/openapi.json"})  # what is answered without a token: probes have none


class ConnectionsState(DrainState):
    """What the connections of one server share. `refused` counts by the `error` of the answer."""

    def __init__(
        self,
        limits: ServerLimits,
        admission: Admission,
        refused: Counter[str],
        tokens: TokensFile | None = None,
    ) -> None:
        super().__init__()
        self.limits, self.admission, self.refused, self.tokens = limits, admission, refused, tokens
        self.held_bytes = 0

    def look(self) -> None:
        """Close what is over its time, and read tokens that changed. Called by the server, each LOOK_S."""
        if self.tokens is not None:
            self.tokens.look()
        now = time.perf_counter()
        for connection in list(self.connections):
            if isinstance(connection, BoundedConnection):
                connection.look(now)


@dataclass(slots=True)
class Request:
    """One that is here, or on its way. `keep`: whether its connection goes on after the answer. `budget_ms` is what its
    caller had left, None for no end."""

    arrived: float
    budget_ms: float | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    url: bytes = b""
    method: str = "GET"
    version: str = "1.1"
    body: bytearray = field(default_factory=bytearray)
    keep: bool = True
    expects: bool = False
    head_bytes: int = 0
    announced: int = 0


class BoundedConnection(DrainingConnection):
    """uvicorn's connection with bounds. Its callbacks run on the event loop, those of the parser within
    `data_received`."""

    server_state: ConnectionsState

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limits = self.server_state.limits
        self._place, self._pending = _BETWEEN, Request(0.0)
        self._behind: list[Request] = []
        self._held = self._message_bytes = 0
        self._problem: tuple[int, ErrorBody] | None = None
        self._late, self._first = False, True
        self._made = self.server_state.admission.arrived(self.loop)
        self._due = time.perf_counter() + self._limits.header_s
        over = len(self.connections) - self._limits.connections
        if over > 0:
            self._refuse(503, ErrorBody("overloaded", "too many connections", "Ask another server, or later"), ())
            if over > 100:  # so many may still hear why
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.held_bytes -= self._held
        self._held = 0
        self._behind.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        while data:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """What is left of `data` behind an upgrade: nobody upgrades here, and the connection goes on as it was."""
        self._message_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.parser = httptools.HttpRequestParser(self)
            self._message_bytes = 0
            return data[upgrade.args[0] :]
        except httptools.HttpParserError:
            if self._ended:
                return b""
            status, error = self._problem or (400, ErrorBody("bad_request", "this is not HTTP/1.1"))
            self._refuse(status, error, self._pending.headers)
        else:
            if self._over_bytes():
                self._refuse(431, self._too_long(), ())
        return b""

    def _over_bytes(self) -> bool:
        """Of a message that is not complete: the parser tells of a header when all of it is here, and of what stands
        around the chunks of a body never."""
        if self._place == _BODY:
            return self._message_bytes > 2 * self._limits.header_bytes + 8 * len(self._pending.body)
        return self._place == _HEAD and self._message_bytes > self._limits.header_bytes

    def _too_long(self) -> ErrorBody:
        most = self._limits
        return ErrorBody(
            "too_large", f"headers of more than {most.header_bytes} bytes or {most.headers} lines", "Send fewer headers"
        )

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._ended:
            raise ValueError("nothing is read any more")
        now, arrived = time.perf_counter(), self.server_state.admission.arrived(self.loop)
        if arrived - self._made < ACCEPTED_S and self._first:
            arrived = self._made
        self._place, self._pending, self._first = _HEAD, Request(arrived), False
        self._message_bytes = 0
        self._due = min(self._due, now + self._limits.header_s)

    def on_url(self, url: bytes) -> None:
        self._pending.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request, name = self._pending, name.lower()
        request.head_bytes += len(name) + len(value) + 4
        if self._place == _BODY:  # a trailer: nobody asked for it
            if request.head_bytes > self._limits.header_bytes:
                self._stop(431, self._too_long())
            return
        if name == b"content-length":
            request.announced = int(value) if len(value) < 19 else 1 << 60  # the parser has seen to it that it is one
        elif name == b"forebay-deadline-ms" and len(value) < 40:
            with contextlib.suppress(ValueError):  # the app says so
                request.budget_ms = float(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            request.expects = True
        request.headers.append((name, value))
        if len(request.headers) > self._limits.headers:
            self._stop(431, self._too_long())

    def on_headers_complete(self) -> None:
        request, parser, limits = self._pending, self.parser, self._limits
        if request.head_bytes + len(request.url) > limits.header_bytes:
            self._stop(431, self._too_long())
        tokens, path = self.server_state.tokens, request.url.partition(b"?")[0]
        if tokens is not None and path not in OPEN and not self._admits(tokens.access, path, request.headers):
            self._stop(401, self._unauthorized())
        if request.announced > limits.body_bytes:
            self._stop(413, self._too_large())
        request.method, request.version = parser.get_method().decode("ascii"), parser.get_http_version()
        if parser.should_upgrade() and request.method != "GET":  # the parser would take its body for another protocol
            error = ErrorBody(
                "bad_request", "an upgrade is not taken here", "Speak HTTP/1.1, without an upgrade header"
            )
            self._stop(400, error)
        request.keep = request.version != "1.0" and parser.should_keep_alive()
        self._place, self._message_bytes = _BODY, 0
        self._due = time.perf_counter() + limits.body_s
        if request.expects and not self._busy():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        state, request = self.server_state, self._pending
        request.body += body
        self._held += len(body)
        state.held_bytes += len(body)
        if len(request.body) > self._limits.body_bytes:
            self._stop(413, self._too_large())
        if state.held_bytes > self._limits.held_bytes:
            self._stop(503, ErrorBody("overloaded", "too many bodies are being read", "Ask another server, or later"))

    def on_message_complete(self) -> None:
        request, self._place = self._pending, _BETWEEN
        self._due = _NEVER
        if not self._busy():
            self._take(request)
        elif len(self._behind) < self._limits.pipelined:
            self._behind.append(request)
        else:
            self._stop(503, ErrorBody("overloaded", "too many requests behind one another"))

    @staticmethod
    def _admits(access: Access, path: bytes, headers: Headers) -> bool:
        given = header(headers, b"authorization")
        return access.admits_person(given) if path in FOR_PEOPLE else access.admits(given)

    def _too_large(self) -> ErrorBody:
        most = self._limits.body_bytes
        return ErrorBody("too_large", f"a body of more than {most} bytes", "Send fewer candidates at a time")

    def _stop(self, status: int, error: ErrorBody) -> None:
        """End the parser's work, and the connection: see `_feed`."""
        self._problem = status, error
        raise ValueError(error.error)

    # What becomes of a request.

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _take(self, request: Request) -> None:
        """Its turn on this connection has come, and all of it is here."""
        raise NotImplementedError

    def _answered(self) -> None:
        """The last byte of an answer is written. Called by its cycle, too."""
        self.server_state.total_requests += 1
        now = time.perf_counter()
        if self._ended or self.transport.is_closing():
            self._due = now + self._limits.write_s
            return
        held = len(self._pending.body) if self._place == _BODY else 0
        held += sum(len(request.body) for request in self._behind)
        self.server_state.held_bytes -= self._held - held
        self._held = held
        if self._behind:
            self._take(self._behind.pop(0))
        elif self._place == _BETWEEN:
            self._due = now + self._limits.idle_s

    def _refuse(self, status: int, error: ErrorBody, headers: Headers) -> None:
        """The last words of this connection. Behind an answer that is under way there are none: it is the last then."""
        self.server_state.refused[error.error] += 1
        self._due = time.perf_counter() + self._limits.write_s
        if self._busy():
            self.cycle.keep_alive = False
            self._ended = True
            return
        more = (RETRY_AFTER,) if status == 503 else (self._challenge(),) if status == 401 else ()
        self.transport.write(response(status, error, headers, close=True, more=more))
        self.end()

    def _unauthorized(self) -> ErrorBody:
        """Told apart for who reads it: a caller without a token, and one whose token is not known here any more."""
        do = "Send authorization: Bearer TOKEN; in Python Client(token=…), at a terminal the setting server_token_file"
        if header(self._pending.headers, b"authorization") is None:
            return ErrorBody("unauthorized", "this server wants a token", do)
        return ErrorBody("unauthorized", "this token is none of this server's", f"Was it replaced? {do}")

    def _challenge(self) -> tuple[bytes, bytes]:
        # A browser asks a person for what Basic wants, and shows the refusal of anything else.
        for_people = self._pending.url.partition(b"?")[0] in FOR_PEOPLE
        return b"www-authenticate", b'Basic realm="forebay", charset="UTF-8"' if for_people else b"Bearer"

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops: a request whose body is on its way is still answered."""
        if self._place != _BODY or self._ended:
            super().shutdown()

    # Time.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._due = time.perf_counter() + self._limits.write_s

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._busy() and not self._late:
            self._due = _NEVER

    def look(self, now: float) -> None:
        """Close this connection where its time is over, and cut it where even that takes too long."""
        if now < self._due:
            return
        if self._late or self._ended or self.flow.write_paused or self._busy():
            self.transport.abort()
        elif self._place == _BETWEEN:
            self._due = now + self._limits.write_s
            self._late = True
            self.transport.close()
        else:
            self._late = True
            what = "headers" if self._place == _HEAD else "body"
            self._refuse(
                408, ErrorBody("too_slow", f"the request's {what} did not come in time"), self._pending.headers
            )
