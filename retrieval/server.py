"""A process that serves an app: its listener, its connections, and how it stops. What it answers is app.py's."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from forebay.errors import ConfigError, ServerUnavailable
from forebay.retrieval.admission import AdmissionOptions
from forebay.retrieval.app import App
from forebay.retrieval.bounds import ConnectionsState
from forebay.retrieval.connection import Connection
from forebay.retrieval.door import Door
from forebay.retrieval.drain import ANSWER_S, IDLE_S, finish
from forebay.retrieval.engine import Engine
from forebay.retrieval.inspect.page import Page
from forebay.retrieval.limits import LOOK_S, ServerLimits
from forebay.retrieval.messages import Readiness


def create_app(
    engine: Engine,
    ready: Callable[[], Readiness],
    *,
    limits: ServerLimits = ServerLimits(),
    admission: AdmissionOptions = AdmissionOptions(),
    page: Page | None = None,
) -> App:
    """The app for `serve` and `serving`. Without a `page` there is nothing at `/`."""
    return App(engine, ready, limits, admission, page)


class _Server(uvicorn.Server):
    """uvicorn, drained before it stops. A caught signal is not raised again: that would end the process before its
    owner's stores close."""

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        door: Door,
        idle_s: float,
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        self.tls, tokens = door.tls(), door.tokens_file()
        super().__init__(_config(app))
        self._app, self._idle_s, self._on_ready = app, idle_s, on_ready
        host, port = listener.getsockname()[:2]
        scheme = "http" if self.tls is None else "https"
        self.address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        app.answers_metrics = door.metrics
        self.server_state: ConnectionsState = ConnectionsState(app.limits, app.admission, app.refused, tokens)

    def stop(self) -> None:
        """From here on every answer is the last of its connection, and the server ends. From any thread or signal
        handler."""
        self._app.stopping = self.should_exit = True
        self.server_state.drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with a bound on the handshakes: a peer is no connection before its handshake ends."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        loop = asyncio.get_running_loop()
        bound = None if self.tls is None else self._app.limits.header_s
        self.servers = [
            await loop.create_server(self.connection, sock=one, ssl=self.tls, ssl_handshake_timeout=bound, backlog=2048)
            for one in sockets or ()
        ]
        self.started = True

    def connection(self) -> Connection:
        """One that somebody has opened."""
        return Connection(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        # Ten times a second, from when connections are taken.
        if self._on_ready is not None and not self.should_exit and self._app.ready().ready:
            self._on_ready(self.address)
            self._on_ready = None
        if counter % round(LOOK_S * 10) == 0:
            self.server_state.look()
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
    app: App,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    door: Door = Door(),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way (see `drain`) and return.

    `on_ready` gets the address, once: when connections are taken and `ready` says yes for the first time. Raises
    ConfigError when the port is in use or what `door` names cannot be used, before anything is warmed up.
    """
    with listening(host, port) as listener:
        serve_at(app, [listener], door=door, on_ready=on_ready)


def serve_at(
    app: App,
    listeners: Sequence[socket.socket],
    *,
    door: Door = Door(),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """`serve` on sockets that are bound, from which other processes may accept as well; `on_ready` gets the first one's
    address."""
    _Server(app, listeners[0], door, IDLE_S, on_ready).run(sockets=[*listeners])


@contextlib.contextmanager
def serving(app: App, host: str = "127.0.0.1", port: int = 0, *, door: Door = Door()) -> Iterator[str]:
    """Serve on a thread of this process while the block runs; yields the address. Port 0 takes a free one."""
    with listening(host, port) as listener:
        server = _Server(app, listener, door, idle_s=0.0)  # who would ask is in this process, and has left the block
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


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=ANSWER_S,
    )


def listening(host: str, port: int) -> socket.socket:
    """A bound socket, for servers of this process or of others. Raises ConfigError for a port that is taken."""
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
