"""What a server answers, as an ASGI app without a framework: each answer is typed, each error says what to do, and no
traceback leaves the process.

    POST /v1/rank       RankRequest      -> RankResponse
    POST /v1/retrieve   RetrieveRequest  -> RankResponse
    POST /v1/explain    ExplainRequest   -> RankResponse, with shares
    POST /v1/batch      BatchRequest     -> BatchResponse
    GET  /v1/entities/{side}/{id}[?vectors=true]  -> EntityResponse
    GET  /  the inspect page
    GET  /health  the process answers · GET /ready  it wants lookups (200) or not (503: also while it stops) · GET
    /metrics · GET /openapi.json

Bodies are JSON, or msgpack by `content-type` and `accept`. `forebay-deadline-ms` is what is left of the caller's time
when it sends: work that nobody waits for any more is not begun, and an answer that comes too late is a 504.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qs

import msgspec
from msgspec import structs

from forebay import clock, telemetry
from forebay.errors import (
    BadRequest,
    DeadlineExceeded,
    ForebayError,
    GenerationUnavailable,
    Overloaded,
    ServerUnavailable,
    WrongShard,
)
from forebay.exposition import Build
from forebay.retrieval.admission import Admission, AdmissionOptions
from forebay.retrieval.asked import Asked, Plain, Receive, Send, TooLarge, read, respond
from forebay.retrieval.engine import Engine
from forebay.retrieval.inspect.page import PAGES, Page
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import (
    JSON,
    BatchEntry,
    BatchRequest,
    BatchResponse,
    ErrorBody,
    ExplainRequest,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
    SegmentFreshness,
    WrongShardBody,
)
from forebay.retrieval.metrics import ServerMetrics
from forebay.retrieval.misses import Misses
from forebay.retrieval.openapi import document
from forebay.retrieval.scanned import Scanned, rank_request, warm
from forebay.retrieval.steps import Laps, Sampled
from forebay.retrieval.wire import decode, encode, header
from forebay.segments.spec import SIDES, Side
from forebay.store.generation import numeric_platform

T = TypeVar("T")
Ask: TypeAlias = Callable[["Asked"], Awaitable[object]]

_log = logging.getLogger("forebay.server")
_NOBODY = 499  # who asked is gone, and nobody reads the answer; the number is for the metrics


class _NotFound(ForebayError):
    """There is nothing at this path."""


_ANSWERS: dict[type[ForebayError], tuple[int, str]] = {
    BadRequest: (400, "bad_request"),
    GenerationUnavailable: (404, "generation_unavailable"),
    _NotFound: (404, "not_found"),
    TooLarge: (413, "too_large"),
    Overloaded: (429, "overloaded"),
    ServerUnavailable: (503, "not_ready"),
    DeadlineExceeded: (504, "deadline_exceeded"),
    WrongShard: (421, "wrong_shard"),
}


@dataclass(frozen=True)
class Route:
    """`path` as the documentation writes it. A `lookup` is refused while the server is not ready, and may have a
    deadline. A `name` is what metrics call it; "" leaves it out of them."""

    path: str
    method: str
    ask: Ask
    name: str
    lookup: bool


class App:
    """The ASGI app. `ready` is asked before every lookup: it must be cheap, and its no is a 503 with its reason.

    The kernels are compiled while the app starts, before it takes a connection. `stopping` and `answers_metrics` are
    set by the server; `refused` counts what connections refused by themselves.
    """

    def __init__(
        self,
        engine: Engine,
        ready: Callable[[], Readiness],
        limits: ServerLimits,
        admission: AdmissionOptions,
        page: Page | None = None,
    ) -> None:
        self.ready, self.limits, self.stopping = ready, limits, False
        self.refused: Counter[str] = Counter()
        self.answers_metrics = True
        self._engine, self._page, self._misses = engine, page, Misses()
        self._steps = Sampled(frozenset({"/v1/rank", "/v1/retrieve", "/v1/explain"}))
        self._users = {"memory": 0, "elsewhere": 0}
        build = Build(engine.generation, engine.bundle_hash, numeric_platform())
        self._metrics = ServerMetrics(engine.copy, ready, self.refused, build, self._users)
        routes = (
            Route("/v1/rank", "POST", self._rank, "/v1/rank", True),
            Route("/v1/explain", "POST", self._explain, "/v1/explain", True),
            Route("/v1/batch", "POST", self._batch, "/v1/batch", True),
            Route("/v1/retrieve", "POST", self._retrieve, "/v1/retrieve", True),
            Route("/v1/entities/{side}/{id}", "GET", self._entity, "/v1/entities", True),
            Route("/health", "GET", self._health, "/health", False),
            Route("/ready", "GET", self._readiness, "", False),
            Route("/metrics", "GET", self._exposed, "", False),
            Route("/openapi.json", "GET", self._described, "", False),
        )
        self._routes = {route.path: route for route in routes}
        self._document = msgspec.json.encode(document())
        lookups = frozenset(route.path for route in routes if route.lookup)
        self.admission = Admission(admission, lookups, frozenset({"/v1/retrieve"}), PAGES if page else frozenset())
        self._prefix, self._entities = "/v1/entities/", self._routes.pop("/v1/entities/{side}/{id}")

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._lifespan(receive, send)
            return
        arrived = scope.get("state", {}).get("arrived") or time.perf_counter()
        asked = Asked(scope["method"], scope["path"], scope["query_string"], scope["headers"], b"", arrived)
        if self._page is not None and self._page.has(asked.path) and asked.method in ("GET", "HEAD"):
            await self._shown(self._page, asked, send)
            return
        route = self._routes.get(asked.path)
        if route is None and asked.path.startswith(self._prefix):
            route = self._entities
        if route is None or asked.method not in ((route.method,) if route.method == "POST" else ("GET", "HEAD")):
            gone = ErrorBody(
                "not_found", f"nothing at {asked.method} {asked.path}", "GET /openapi.json lists the requests"
            )
            await respond(send, 404, *encode(gone, asked.headers))
            return
        waited = time.perf_counter() - arrived
        status, data, media = await self._answered(route, asked, receive)
        if status != _NOBODY:
            await respond(send, status, data, media)
        if route.name:
            seconds = time.perf_counter() - arrived
            telemetry.emit("request", path=route.name, status=status, seconds=seconds, waited=waited)

    async def _shown(self, page: Page, asked: Asked, send: Send) -> None:
        waited = time.perf_counter() - asked.arrived
        shown = await page.answer(asked.path, asked.query, asked.headers, self.ready())
        await respond(send, shown.status, shown.data, shown.media, shown.headers)
        if asked.path in PAGES:
            seconds = time.perf_counter() - asked.arrived
            telemetry.emit("request", path=asked.path, status=shown.status, seconds=seconds, waited=waited)

    async def _answered(self, route: Route, asked: Asked, receive: Receive) -> tuple[int, bytes, bytes]:
        """The route's result or its error: status, body and content type."""
        try:
            if route.lookup and not ((state := self.ready()).ready or state.answers):
                raise ServerUnavailable(f"not ready: {state.reason}", do="Ask another server, or wait for /ready")
            if route.method == "POST":
                await read(asked, receive, self.limits.body_bytes)
            laps = None
            if route.lookup:
                asked.within()
                if laps := self._steps.begin(route.path):
                    asked.lap = laps
            answer = await route.ask(asked)
            if route.lookup:  # while it worked the time may have ended
                asked.within()
            if isinstance(answer, Plain):
                return answer.status, answer.data, answer.media
            data, media = encode(answer, asked.headers)
            if laps is not None:
                _timed(route.name, laps)
            return 200, data, media
        except ConnectionAbortedError:
            return _NOBODY, b"", b""
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a typed answer
            found = next((answer for kind, answer in _ANSWERS.items() if isinstance(error, kind)), None)
            if found is not None and isinstance(error, ForebayError):
                return found[0], *encode(_body(found[1], error), asked.headers)
            _log.exception("%s failed", route.name or route.path)
            body = ErrorBody("internal", "the server failed on this request", "Read its log")
            return 500, *encode(body, asked.headers)

    async def _rank(self, asked: Asked) -> object:
        # On the event loop: a tenth of a millisecond of work, less than handing it to a thread and back.
        return _told(await self._ranked(asked, rank_request(asked.body, asked.headers)))

    async def _retrieve(self, asked: Asked) -> object:
        request = decode(asked.body, asked.headers, RetrieveRequest)
        asked.lap("read")
        # An exact search of many items takes milliseconds.
        if self._at_hand(request.user):
            return _told(await asyncio.to_thread(self._engine.retrieve, request, asked.lap))
        return _told(await self._later(asked, lambda: self._engine.retrieve(request, asked.lap)))

    async def _explain(self, asked: Asked) -> object:
        request = decode(asked.body, asked.headers, ExplainRequest)
        asks = RankRequest(request.user, request.items, len(request.items), request.generation, True)
        return _told(await self._ranked(asked, asks))

    async def _batch(self, asked: Asked) -> object:
        requests = decode(asked.body, asked.headers, BatchRequest).requests
        most = self._engine.limits.max_batch
        if len(requests) > most:
            raise BadRequest(f"a batch of {len(requests)}", do=f"Send at most {most} at a time")
        entries = []
        for request in requests:
            try:
                entries.append(BatchEntry(answer=_told(await self._ranked(asked, request))))
            except (BadRequest, GenerationUnavailable, WrongShard) as error:
                code = next(answer[1] for kind, answer in _ANSWERS.items() if isinstance(error, kind))
                entries.append(BatchEntry(error=_body(code, error)))
            await asyncio.sleep(0)  # the loop looks at its connections, as between two requests
            asked.within()
        return BatchResponse(entries)

    async def _ranked(self, asked: Asked, request: RankRequest | Scanned) -> RankResponse:
        asked.lap("read")
        if self._at_hand(request.user):
            return self._engine.rank(request, asked.lap)
        return await self._later(asked, partial(self._engine.rank, request, asked.lap))

    def _at_hand(self, user: str) -> bool:
        """Whether the user's row is in memory; counted for the metrics."""
        there = self._engine.at_hand(user)
        self._users["memory" if there else "elsewhere"] += 1
        return there

    async def _later(self, asked: Asked, call: Callable[[], T]) -> T:
        """A lookup of a user that is not in memory: others have their turns while it waits."""
        start = time.perf_counter()
        try:
            with self.admission.lane(asked.path).aside():
                return await self._misses.run(call, asked.left_s())
        finally:
            path = "/v1/entities" if asked.path.startswith(self._prefix) else asked.path
            telemetry.emit("user_read", path=path, seconds=time.perf_counter() - start)

    async def _described(self, _: Asked) -> object:
        return Plain(200, self._document, JSON.encode())

    async def _entity(self, asked: Asked) -> object:
        named, slash, name = asked.path.removeprefix(self._prefix).partition("/")
        side = next((side for side in SIDES if side == named), None)
        if side is None or not slash:
            raise _NotFound(f"side {named!r}: there are user and item")
        try:
            query = parse_qs(asked.query.decode("latin-1"), keep_blank_values=True, max_num_fields=20)
        except ValueError:
            raise BadRequest("the query has too many parts", do="GET /openapi.json says what it may have") from None
        vectors = query.get("vectors", [""])[-1] in ("true", "1")
        generation = query["generation"][-1] if "generation" in query else None
        ask = partial(self._engine.entity, side, name, vectors=vectors, generation=generation)
        return ask() if side == "item" or self._at_hand(name) else await self._later(asked, ask)

    async def _health(self, _: Asked) -> object:
        return {"status": "ok"}

    async def _readiness(self, asked: Asked) -> object:
        state = self.ready()
        if self.stopping:  # lookups that come on a kept connection are still answered
            state = Readiness(False, "stopping", state.lag_ms)
        if (copy := self._engine.copy).shard.of > 1:
            state = structs.replace(state, shard=str(copy.shard), user_partitions=copy.user_partitions)
        return Plain(200 if state.ready else 503, *encode(state, asked.headers))

    async def _exposed(self, asked: Asked) -> object:
        if not self.answers_metrics:
            raise _NotFound("metrics have a port of their own here")
        data, media = self.exposed((header(asked.headers, b"accept") or b"").decode("latin-1"))
        return Plain(200, data, media.encode())

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """All metrics as the request header `accept` wants them, and their content type. From any thread."""
        return self._metrics.exposed(accept)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Warm up, then listen to telemetry until the server ends. A failure is told to it, and it does not start."""
        await receive()
        try:
            self._engine.warm()
            warm()
        except BaseException as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        remove = telemetry.add_hook(self._metrics)
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            remove()
        await send({"type": "lifespan.shutdown.complete"})


def _body(code: str, error: ForebayError) -> ErrorBody:
    if isinstance(error, WrongShard):
        return WrongShardBody(code, error.what, error.do, error.shard)
    return ErrorBody(code, error.what, error.do)


def _timed(path: str, laps: Laps) -> None:
    """The `lookup_step` hook for each step of a lookup whose answer is bytes by now."""
    laps("answer")
    for step, seconds in laps.seconds().items():
        telemetry.emit("lookup_step", path=path, step=step, seconds=seconds)


def _told(answer: RankResponse) -> RankResponse:
    """The answer, after the `served` hook for each of its segments."""
    now = clock.now_ms()
    sides: dict[Side, Mapping[str, SegmentFreshness]] = {"user": answer.segments, "item": answer.item_segments}
    for side, segments in sides.items():
        for name, found in segments.items():
            if found.as_of is None:
                telemetry.emit("served", side=side, segment=name, state=found.state)
            else:
                seconds = (now - found.as_of) / 1000
                telemetry.emit("served", side=side, segment=name, state=found.state, seconds=seconds)
    return answer
