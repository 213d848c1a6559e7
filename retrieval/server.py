"""HTTP in front of an Engine. Each answer is typed, each error says what to do, and no traceback leaves the process.

    POST /v1/rank       RankRequest      -> RankResponse
    POST /v1/retrieve   RetrieveRequest  -> RankResponse
    GET  /v1/entities/{side}/{id}[?vectors=true]  -> EntityResponse
    GET  /health  the process answers · GET /ready  it wants lookups (200) or not (503: also while it stops) · GET
    /metrics

Bodies are JSON, or msgpack by `content-type` and `accept`. `forebay-deadline-ms` is what is left of the caller's time
when it sends: work that nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeAlias, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from forebay import clock, telemetry
from forebay.errors import BadRequest, ConfigError, DeadlineExceeded, GenerationUnavailable, ServerUnavailable
from forebay.exposition import Build
from forebay.retrieval.drain import ANSWER_S, IDLE_S, DrainingConnection, DrainState, finish
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import (
    JSON,
    MSGPACK,
    ErrorBody,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
    SegmentFreshness,
)
from forebay.retrieval.metrics import ServerMetrics
from forebay.segments.spec import Side
from forebay.store.generation import numeric_platform

MAX_BODY_BYTES = 1 << 20  # 10,000 candidates of 64 bytes, with room to spare

T = TypeVar("T")
Ask: TypeAlias = Callable[[Request], Awaitable[object]]

_log = logging.getLogger("forebay.server")


class _TooLarge(Exception):
    """The body is larger than the limit."""


class _NotFound(Exception):
    """There is nothing at this path."""


def create_app(engine: Engine, ready: Callable[[], Readiness], *, max_body_bytes: int = MAX_BODY_BYTES) -> Starlette:
    """The ASGI app. `ready` is asked before every lookup: it must be cheap, and its no is a 503 with its reason.

    The kernels are compiled while the app starts, before it takes a connection.
    """
    metrics = ServerMetrics(engine.copy, ready, Build(engine.generation, engine.bundle_hash, numeric_platform()))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.warm()
        remove = telemetry.add_hook(metrics)
        try:
            yield
        finally:
            remove()

    async def rank(request: Request) -> object:
        # On the event loop: a tenth of a millisecond of work, less than handing it to a thread and back.
        asked = await _parse(request, RankRequest, max_body_bytes)
        _within_deadline(request)
        return _told(engine.rank(asked))

    async def retrieve(request: Request) -> object:
        asked = await _parse(request, RetrieveRequest, max_body_bytes)
        _within_deadline(request)
        # An exact search of many items takes milliseconds.
        return _told(await asyncio.to_thread(engine.retrieve, asked))

    async def entity(request: Request) -> object:
        side, name = request.path_params["side"], request.path_params["id"]
        if side not in ("user", "item"):
            raise _NotFound(f"side {side!r}: there are user and item")
        query = request.query_params
        return engine.entity(
            side, name, vectors=query.get("vectors") in ("true", "1"), generation=query.get("generation")
        )

    async def health(_: Request) -> object:
        return {"status": "ok"}

    async def readiness(request: Request) -> Response:
        state = ready()
        if app.state.stopping:  # lookups that come on a kept connection are still answered
            state = Readiness(False, "stopping", state.lag_ms)
        return _response(request, state, 200 if state.ready else 503)

    async def metrics_text(request: Request) -> Response:
        data, content_type = metrics.exposed(request.headers.get("accept", ""))
        return Response(data, headers={"content-type": content_type})

    async def not_found(request: Request, _: Exception) -> Response:
        return _error(request, 404, "not_found", f"nothing at {request.method} {request.url.path}")

    def lookup(ask: Ask) -> Ask:
        async def checked(request: Request) -> object:
            state = ready()
            if not state.ready and not state.answers:
                raise ServerUnavailable(f"not ready: {state.reason}", do="Ask another server, or wait for /ready")
            return await ask(request)

        return checked

    routes = [
        Route("/v1/rank", _answer("/v1/rank", lookup(rank)), methods=["POST"]),
        Route("/v1/retrieve", _answer("/v1/retrieve", lookup(retrieve)), methods=["POST"]),
        Route("/v1/entities/{side}/{id:path}", _answer("/v1/entities", lookup(entity)), methods=["GET"]),
        Route("/health", _answer("/health", health), methods=["GET"]),
        Route("/ready", readiness, methods=["GET"]),
        Route("/metrics", metrics_text, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: not_found, 405: not_found})
    app.state.ready, app.state.stopping = ready, False
    return app


class _Server(uvicorn.Server):
    """uvicorn, drained before it stops. A caught signal is not raised again: that would end the process before its
    owner's stores close."""

    def __init__(
        self, app: Starlette, listener: socket.socket, idle_s: float, on_ready: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(_config(app))
        self._app, self._idle_s, self._on_ready = app, idle_s, on_ready
        host, port = listener.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.server_state: DrainState = DrainState()

    def stop(self) -> None:
        """From here on every answer is the last of its connection, and the server ends. From any thread or signal
        handler."""
        self._app.state.stopping = self.should_exit = True
        self.server_state.drain()

    async def on_tick(self, counter: int) -> bool:
        # Ten times a second, from when connections are taken.
        if self._on_ready is not None and not self.should_exit and self._app.state.ready().ready:
            self._on_ready(self.address)
            self._on_ready = None
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await finish(self, sockets or [], self._idle_s)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kept = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


def serve(
    app: Starlette,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way (see `drain`) and return.

    `on_ready` gets the address, once: when connections are taken and `ready` says yes for the first time. Raises
    ConfigError when the port is in use, before anything is warmed up.
    """
    with _listen(host, port) as listener:
        _Server(app, listener, IDLE_S, on_ready).run(sockets=[listener])


@contextlib.contextmanager
def serving(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve on a thread of this process while the block runs; yields the address. Port 0 takes a free one."""
    with _listen(host, port) as listener:
        server = _Server(app, listener, idle_s=0.0)  # who would ask is in this process, and has left the block
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="forebay-server")
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise ServerUnavailable("the server stopped while it started", do="Read its log")
                time.sleep(0.005)
            yield server.address
        finally:
            server.stop()
            thread.join()


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=DrainingConnection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,  # longer than the minute after which proxies and clients drop idle connections
        timeout_graceful_shutdown=ANSWER_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port that is taken is found here, and named."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen: {error.strerror or error}",
            where=f"{host}:{port}",
            do="Stop what listens there, or choose another --port",
        ) from None
    return listener


def _answer(path: str, ask: Ask) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint around `ask`: its result or its error as a response, and the `request` hook."""

    async def endpoint(request: Request) -> Response:
        start = time.perf_counter()
        request.state.start = start
        try:
            response = _response(request, await ask(request))
        except BadRequest as error:
            response = _error(request, 400, "bad_request", error.what, error.do)
        except GenerationUnavailable as error:
            response = _error(request, 404, "generation_unavailable", error.what, error.do)
        except _NotFound as error:
            response = _error(request, 404, "not_found", str(error))
        except _TooLarge as error:
            response = _error(request, 413, "too_large", str(error), "Send fewer candidates at a time")
        except ServerUnavailable as error:
            response = _error(request, 503, "not_ready", error.what, error.do)
        except DeadlineExceeded as error:
            response = _error(request, 504, "deadline_exceeded", error.what, error.do)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; the number is for the metrics
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets a typed answer
            _log.exception("%s failed", path)
            response = _error(request, 500, "internal", "the server failed on this request", "Read its log")
        telemetry.emit("request", path=path, status=response.status_code, seconds=time.perf_counter() - start)
        return response

    return endpoint


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


async def _parse(request: Request, kind: type[T], most: int) -> T:
    """The body as a `kind`. Counted while it is read: a length that is announced need not be true."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise _TooLarge(f"a body of {announced} bytes; the limit is {most}")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _TooLarge(f"a body of more than {most} bytes")
        chunks.append(chunk)
    data = b"".join(chunks)
    try:
        if _is_msgpack(request.headers.get("content-type", "")):
            return msgspec.msgpack.decode(data, type=kind)
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not a {kind.__name__}: {error}", do="See /v1 in the documentation") from None


def _within_deadline(request: Request) -> None:
    """Raise DeadlineExceeded if the caller's time ran out while the request was read."""
    text = request.headers.get("forebay-deadline-ms")
    if text is None:
        return
    try:
        budget_ms = float(text)
    except ValueError:
        raise BadRequest(f"forebay-deadline-ms is {text[:40]!r}", do="Send milliseconds") from None
    spent_ms = (time.perf_counter() - request.state.start) * 1000
    if not spent_ms < budget_ms:
        raise DeadlineExceeded(f"{spent_ms:.1f} ms spent of {budget_ms:.1f}", do="Allow more time, or send less")


def _response(request: Request, answer: object, status: int = 200) -> Response:
    accept = request.headers.get("accept", "*/*")
    packed = _is_msgpack(accept) or (accept == "*/*" and _is_msgpack(request.headers.get("content-type", "")))
    data: Any = msgspec.msgpack.encode(answer) if packed else msgspec.json.encode(answer)
    return Response(data, status, media_type=MSGPACK if packed else JSON)


def _error(request: Request, status: int, code: str, message: str, do: str = "") -> Response:
    return _response(request, ErrorBody(code, message, do), status)


def _is_msgpack(media: str) -> bool:
    return "msgpack" in media
