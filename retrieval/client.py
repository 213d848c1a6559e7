"""The lookup client: what a service installs to ask. msgspec, the messages and the errors; nothing else.

client = Client("http://forebay:8080", timeout_s=0.05)
top = client.rank("u42", candidates=ids, k=50)
for hit in top: ...                               # hit.item, hit.score
top.segments["recent"].state                      # "fresh" | "late" | "expired" | "missing"
"""

from __future__ import annotations

import math
import select
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import BoundedSemaphore
from types import TracebackType
from typing import Literal, Self, TypeVar

from forebay.errors import DeadlineExceeded
from forebay.retrieval import calls
from forebay.retrieval.calls import Call, NotReady
from forebay.retrieval.course import ClientOptions, Course, Terms
from forebay.retrieval.exchange import Connection, Exchange, Expired
from forebay.retrieval.http1 import AnswerReader
from forebay.retrieval.messages import BatchResponse, EntityResponse, RankRequest, RankResponse, Readiness
from forebay.retrieval.servers import Server
from forebay.secret import NO_SECRET, Secret

T = TypeVar("T")


class Client:
    """Keeps connections open; one for all threads of a process. Open it after a fork, not before.

    `url` is one server's, or several: a call goes to the one that has the fewest under way, and past those that failed
    lately. `timeout_s` is for a whole call, connecting and all retries included; the servers are told what is left of
    it and do not begin work that nobody waits for. Only the resolution of a host's name cannot be cut short.

    `retries` is how often a call is asked again after a connection that failed or a 503, within a budget that all calls
    share (`options`) and never past the time. An overloaded server is not asked again. With `hedge_after_s` a call that
    has no answer by then is asked a second time, of another server where there are several, and the first answer
    counts. No more than `connections` are open to a server; a call waits for a free one.

    Calls raise ServerUnavailable, Overloaded, DeadlineExceeded, BadRequest, GenerationUnavailable or Unauthorized.
    `token` goes with each call; `ca` is who signs the certificate of an https server, the system's own where it is
    absent. Servers are asked directly, whatever proxy the environment names.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        timeout_s: float = 1.0,
        retries: int = 1,
        *,
        connections: int = 32,
        hedge_after_s: float | None = None,
        token: Secret = NO_SECRET,
        ca: Path | None = None,
        options: ClientOptions = ClientOptions(),
    ) -> None:
        """Raises ConfigError for what cannot be used. Nothing is connected yet."""
        self._terms = Terms(url, timeout_s, retries, connections, hedge_after_s, token, ca, options)
        servers = self._terms.servers.all
        tls = ssl.create_default_context(cafile=ca) if any(s.secure for s in servers) else None
        self._pools = {s: _Pool(s, connections, tls if s.secure else None, options.idle_s) for s in servers}

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        k: int = 50,
        *,
        filter: str = "",
        boost: Mapping[str, float] = {},
        exclude_seen: bool = False,
        deny: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        generation: str | None = None,
        explain: bool = False,
    ) -> RankResponse:
        """The best `k` of `candidates` for `user`, best first. Unknown ones take part with the default vectors. Which
        of them are let in, and what is added to whose score, is as in RankRequest."""
        request = calls.rank_request(
            user, candidates, k, generation, explain, filter, boost, exclude_seen, deny, allow
        )  # fmt: skip
        return self._call(calls.rank(request))

    def retrieve(
        self,
        user: str,
        k: int = 50,
        deny: Sequence[str] = (),
        *,
        filter: str = "",
        boost: Mapping[str, float] = {},
        exclude_seen: bool = False,
        allow: Sequence[str] | None = None,
        generation: str | None = None,
        explain: bool = False,
    ) -> RankResponse:
        """The best `k` of all items for `user`, without those in `deny`; the rest is as in `rank`."""
        request = calls.retrieve_request(user, k, deny, generation, explain, filter, boost, exclude_seen, allow)
        return self._call(calls.retrieve(request))

    def explain(self, user: str, items: Sequence[str], *, generation: str | None = None) -> RankResponse:
        """All `items` as `rank` orders them for `user`, each with what every segment adds to its score."""
        return self._call(calls.explain(user, items, generation))

    def batch(self, requests: Sequence[RankRequest]) -> BatchResponse:
        """Several of `rank` in one request, with one time for all: an answer or an error for each, in their order."""
        return self._call(calls.batch(requests))

    def entity(self, side: Literal["user", "item"], id: str, *, vectors: bool = False) -> EntityResponse:
        """What is stored of one entity: freshness of each segment and, with `vectors`, its int8 codes and scale."""
        return self._call(calls.entity(side, id, vectors))

    def ready(self) -> Readiness:
        """Whether the server wants lookups, and why not. Raises ServerUnavailable only when nobody answers."""
        return self._call(calls.READY)

    def close(self) -> None:
        """Close the connections. Calls that are under way finish first."""
        for pool in self._pools.values():
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[T]) -> T:
        course = Course(self._terms, call.user)
        while True:
            race = _Race(self._terms, self._pools, call, course)
            try:
                return calls.answered(call, *race.answer())
            except (OSError, NotReady) as problem:
                pause = course.again(race.server, problem)
            except Expired:
                raise race.late() from None
            finally:
                race.end()
            time.sleep(pause)


class _Race:
    """One attempt of a call: a request, and after a while maybe a second one beside it. The first answer counts, and
    the connection of the other one is closed. `server`: whose answer it is, or whose failure ended the attempt."""

    def __init__(self, terms: Terms, pools: dict[Server, _Pool], call: Call[T], course: Course) -> None:
        self._terms, self._pools, self._call, self._course = terms, pools, call, course
        self._running: dict[Exchange, Server] = {}
        self._held: list[Server] = []  # whose slots are taken
        self._chosen = [course.server()]
        self.server = self._chosen[0]

    def answer(self) -> tuple[AnswerReader, str]:
        """The answer, and the address of who gave it. Raises OSError, Expired and UnreadableAnswer."""
        deadline, after_s = self._course.deadline, self._terms.hedge_after_s
        hedge_at = math.inf if after_s is None else time.monotonic() + after_s
        self._begin(self.server, deadline, self._course.connect_by(), deadline)
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise Expired
            ready = self._readable(min(deadline, hedge_at) - now)
            for exchange in ready:
                if not self._read(exchange):
                    continue
                self.server = self._running.pop(exchange)
                self._keep(exchange)
                self._terms.servers.answered(self.server)
                if not (self._running and exchange.answer.elsewhere):
                    return exchange.answer, self.server.url
            if not ready and time.monotonic() >= hedge_at:
                hedge_at = math.inf
                self._hedge()

    def late(self) -> DeadlineExceeded:
        """What it is when the time is over."""
        for server in self._chosen:
            self._terms.servers.silent(server)
        return self._terms.late()

    def end(self) -> None:
        """Let go of everything."""
        for exchange in self._running:
            exchange.close()
        for server in self._held:
            self._pools[server].leave()
        for server in self._chosen:
            self._terms.servers.ended(server)

    def _begin(self, server: Server, enter_by: float, connect_by: float, send_by: float) -> None:
        """Send the request to `server`, over a kept connection where there is one."""
        pool = self._pools[server]
        pool.enter(enter_by)
        self._held.append(server)
        if (kept := pool.kept()) is not None:
            try:
                self._send(kept, send_by, kept=True)
                return
            except OSError:  # the server closed it meanwhile, and may have closed all of them
                pool.clear()
        self._connect(server, connect_by, send_by)

    def _connect(self, server: Server, connect_by: float, send_by: float) -> None:
        try:
            connection = self._pools[server].connect(connect_by)
        except TimeoutError:
            if time.monotonic() >= self._course.deadline:
                raise Expired from None
            raise
        self._send(connection, send_by, kept=False)

    def _send(self, connection: Connection, send_by: float, *, kept: bool) -> None:
        request = self._terms.request(connection.server, self._call, self._course.deadline)
        exchange = Exchange(connection, request, self._terms.options.answer_bytes, send_by, kept=kept)
        self._running[exchange] = connection.server

    def _readable(self, seconds: float) -> list[Exchange]:
        """Those that have something to read, within so long."""
        running = list(self._running)
        if len(running) == 1:
            return running if running[0].connection.poll.poll(seconds * 1000) else []
        both = select.poll()
        by_number = {exchange.connection.sock.fileno(): exchange for exchange in running}
        for number in by_number:
            both.register(number, select.POLLIN)
        return [by_number[number] for number, _ in both.poll(seconds * 1000)]

    def _read(self, exchange: Exchange) -> bool:
        """Whether its answer is whole. A kept connection that breaks before a byte of it costs nothing: lookups only
        read, so that the request is sent again. Raises OSError where nothing is left that may answer."""
        try:
            return exchange.read()
        except OSError:
            server = self._running.pop(exchange)
            exchange.close()
            if exchange.stale:
                self._pools[server].clear()
                self._connect(server, self._course.connect_by(), self._course.deadline)
            elif self._running:
                self._terms.servers.failed(server)
            else:
                self.server = server
                raise
            return False

    def _hedge(self) -> None:
        """Ask a second time, where the budget allows it. It must not hold up the first: no wait for a free connection,
        and short ones for a new connection and for its sending."""
        assert self._terms.hedge_after_s is not None
        if not self._course.hedge():
            return
        server, now = self._course.server(), time.monotonic()
        self._chosen.append(server)
        soon = min(self._course.deadline, now + self._terms.hedge_after_s)
        try:
            self._begin(server, now, soon, soon)
        except Expired:
            return
        except OSError:
            self._terms.servers.failed(server)

    def _keep(self, exchange: Exchange) -> None:
        if exchange.answer.keep:
            self._pools[exchange.connection.server].keep(exchange.connection)
        else:
            exchange.close()


class _Pool:
    """The connections to one server. Safe to call from several threads."""

    def __init__(self, server: Server, most: int, tls: ssl.SSLContext | None, idle_s: float) -> None:
        self._server, self._tls, self._idle_s = server, tls, idle_s
        self._slots = BoundedSemaphore(most)
        self._kept: deque[Connection] = deque()
        self._closed = False

    def enter(self, deadline: float) -> None:
        """Wait for a free slot; `leave` must follow. Raises Expired."""
        if not self._slots.acquire(blocking=False) and not self._slots.acquire(
            timeout=max(0.0, deadline - time.monotonic())
        ):
            raise Expired

    def leave(self) -> None:
        self._slots.release()

    def kept(self) -> Connection | None:
        """The one that was used last, where it is still good."""
        while True:
            try:
                connection = self._kept.pop()
            except IndexError:
                return None
            if time.monotonic() - connection.used_at < self._idle_s and connection.idle():
                return connection
            connection.close()

    def connect(self, connect_by: float) -> Connection:
        """A new one. Raises OSError, of which TimeoutError is one."""
        return Connection(self._server, connect_by, self._tls)

    def keep(self, connection: Connection) -> None:
        self._kept.append(connection)
        if self._closed:
            self.clear()

    def clear(self) -> None:
        """Close those that are kept."""
        while True:
            try:
                self._kept.pop().close()
            except IndexError:
                return

    def close(self) -> None:
        self._closed = True
        self.clear()
