"""The lookup client for services on asyncio: what Client does, without a thread that waits.

async with AsyncClient("http://forebay:8080", timeout_s=0.05) as client:
    top = await client.rank("u42", candidates=ids, k=50)
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from forebay.retrieval import calls
from forebay.retrieval.calls import Call, NotReady
from forebay.retrieval.course import ClientOptions, Course, Terms
from forebay.retrieval.http1 import AnswerReader, UnreadableAnswer
from forebay.retrieval.messages import BatchResponse, EntityResponse, RankRequest, RankResponse, Readiness
from forebay.retrieval.servers import Server
from forebay.secret import NO_SECRET, Secret

T = TypeVar("T")


class AsyncClient:
    """One for all tasks of an event loop. Arguments, bounds and errors are those of Client.

    A call that is cancelled closes its connection: what the server still says on it is nobody's answer.
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
        """Raises ConfigError for what cannot be used. Nothing is connected yet, and no event loop needed."""
        self._terms = Terms(url, timeout_s, retries, connections, hedge_after_s, token, ca, options)
        servers = self._terms.servers.all
        tls = ssl.create_default_context(cafile=ca) if any(s.secure for s in servers) else None
        self._pools = {s: _Pool(s, connections, tls if s.secure else None, options.idle_s) for s in servers}

    async def rank(
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
        return await self._call(calls.rank(request))

    async def retrieve(
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
        return await self._call(calls.retrieve(request))

    async def explain(self, user: str, items: Sequence[str], *, generation: str | None = None) -> RankResponse:
        """All `items` as `rank` orders them for `user`, each with what every segment adds to its score."""
        return await self._call(calls.explain(user, items, generation))

    async def batch(self, requests: Sequence[RankRequest]) -> BatchResponse:
        """Several of `rank` in one request, with one time for all: an answer or an error for each, in their order."""
        return await self._call(calls.batch(requests))

    async def entity(self, side: Literal["user", "item"], id: str, *, vectors: bool = False) -> EntityResponse:
        """What is stored of one entity: freshness of each segment and, with `vectors`, its int8 codes and scale."""
        return await self._call(calls.entity(side, id, vectors))

    async def ready(self) -> Readiness:
        """Whether the server wants lookups, and why not. Raises ServerUnavailable only when nobody answers."""
        return await self._call(calls.READY)

    async def close(self) -> None:
        """Close the connections. Calls that are under way finish first."""
        for pool in self._pools.values():
            await pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call[T]) -> T:
        course = Course(self._terms, call.user)
        race = _Race(self._terms, self._pools, call, course)
        try:
            async with asyncio.timeout(self._terms.timeout_s):
                while True:
                    try:
                        return calls.answered(call, *await race.answer())
                    except (OSError, NotReady) as problem:
                        pause = course.again(race.server, problem)
                    finally:
                        race.end()
                    await asyncio.sleep(pause)
                    race = _Race(self._terms, self._pools, call, course)
        except TimeoutError:  # that of this block: one of a connection is seen to inside
            raise race.late() from None


class _Race:
    """One attempt of a call: a request, and after a while maybe a second one beside it. The first answer counts, and
    the connection of the other one is closed. `server`: whose answer it is, or whose failure ended the attempt."""

    def __init__(self, terms: Terms, pools: dict[Server, _Pool], call: Call[Any], course: Course) -> None:
        self._terms, self._pools, self._call, self._course = terms, pools, call, course
        self._chosen = [course.server()]
        self.server = self._chosen[0]

    async def answer(self) -> tuple[AnswerReader, str]:
        """The answer, and the address of who gave it. Raises OSError and UnreadableAnswer."""
        if self._terms.hedge_after_s is None:
            answer = await self._asked(self.server)
        else:
            answer = await self._hedged(self._terms.hedge_after_s)
        self._terms.servers.answered(self.server)
        return answer, self.server.url

    def late(self) -> Exception:
        """What it is when the time is over."""
        for server in self._chosen:
            self._terms.servers.silent(server)
        return self._terms.late()

    def end(self) -> None:
        """It is over."""
        for server in self._chosen:
            self._terms.servers.ended(server)

    async def _hedged(self, after_s: float) -> AnswerReader:
        running = {asyncio.create_task(self._asked(self.server)): self.server}
        try:
            done, _ = await asyncio.wait(running, timeout=after_s)
            if not done and self._course.hedge():
                self._chosen.append(server := self._course.server())
                if not self._pools[server].slots.locked():
                    running[asyncio.create_task(self._asked(server))] = server
            while True:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self.server = running.pop(task)
                    try:
                        answer = task.result()
                    except OSError:
                        if not running:
                            raise
                        self._terms.servers.failed(self.server)
                    else:
                        if not (running and answer.elsewhere):
                            return answer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _asked(self, server: Server) -> AnswerReader:
        """Send the request to `server`, over a kept connection where there is one. A kept connection that breaks before
        a byte of the answer costs nothing: lookups only read, so that the request is sent again."""
        pool = self._pools[server]
        async with pool.slots:
            if (kept := pool.kept()) is not None:
                answer = AnswerReader(server.url, self._terms.options.answer_bytes)
                try:
                    return await self._over(kept, answer, pool)
                except OSError:
                    if answer.begun:
                        raise
                    pool.clear()
            connect_by = self._course.connect_by()
            if connect_by < self._course.deadline:
                async with asyncio.timeout(connect_by - time.monotonic()):
                    connection = await pool.connect()
            else:
                connection = await pool.connect()
            return await self._over(connection, AnswerReader(server.url, self._terms.options.answer_bytes), pool)

    async def _over(self, connection: _Connection, answer: AnswerReader, pool: _Pool) -> AnswerReader:
        try:
            await connection.ask(self._terms.request(pool.server, self._call, self._course.deadline), answer)
        except BaseException:  # cancelled, too
            connection.close()
            raise
        if answer.keep:
            pool.keep(connection)
        else:
            connection.close()
        return answer


class _Connection(asyncio.Protocol):
    """An open connection, which is asked one thing at a time. `used_at`: when its last answer was whole, of
    `time.monotonic`; `over`: it is closed, or was sent what nobody asked for."""

    def __init__(self) -> None:
        self.used_at, self.over = 0.0, False
        self._answer: AnswerReader | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio's
        self._lost = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes, answer: AnswerReader) -> None:
        """Send, and read into `answer` until it is whole. Raises OSError and UnreadableAnswer."""
        if self.over:
            raise ConnectionError("it is closed")
        self._answer, self._waiter = answer, asyncio.get_running_loop().create_future()
        try:
            # All at once, without a wait for room: an answer may come before the server has taken all of the body.
            self._transport.write(request)
            await self._waiter
        finally:
            self._answer = self._waiter = None
        self.used_at = time.monotonic()

    def close(self) -> None:
        """At once: nothing is on its way that anybody waits for."""
        self.over = True
        self._transport.abort()

    async def closed(self) -> None:
        """Its socket is closed."""
        await self._lost

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> None:
        self._take(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(
                exc if isinstance(exc, OSError) else ConnectionError("it ended before an answer")
            )
        if not self._lost.done():
            self._lost.set_result(None)

    def _take(self, data: bytes) -> None:
        if self._answer is None or self._waiter is None or self._waiter.done():
            self.close()
            return
        try:
            if self._answer.feed(data):
                self._waiter.set_result(None)
        except (OSError, UnreadableAnswer) as error:
            self._waiter.set_exception(error)


class _Pool:
    """The connections to one server, on one event loop. `slots` are taken by those who use or open one."""

    def __init__(self, server: Server, most: int, tls: ssl.SSLContext | None, idle_s: float) -> None:
        self.server, self.slots = server, asyncio.Semaphore(most)
        self._tls, self._idle_s = tls, idle_s
        self._kept: deque[_Connection] = deque()
        self._closed = False

    def kept(self) -> _Connection | None:
        """The one that was used last, where it is still good."""
        while self._kept:
            connection = self._kept.pop()
            if not connection.over and time.monotonic() - connection.used_at < self._idle_s:
                return connection
            connection.close()
        return None

    async def connect(self) -> _Connection:
        """A new one. Raises OSError."""
        loop, host = asyncio.get_running_loop(), self.server.host
        named = host if self._tls is not None else None
        made = await loop.create_connection(_Connection, host, self.server.port, ssl=self._tls, server_hostname=named)
        return made[1]

    def keep(self, connection: _Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._kept.append(connection)

    def clear(self) -> None:
        """Close those that are kept."""
        while self._kept:
            self._kept.pop().close()

    async def close(self) -> None:
        """And wait until their sockets are."""
        self._closed = True
        kept = list(self._kept)
        self.clear()
        for connection in kept:
            await connection.closed()
