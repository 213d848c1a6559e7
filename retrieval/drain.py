"""How a server lets go of its connections: what was asked is answered, with the word that it was the last answer, and
nobody is reset.

From the signal on, nothing new is accepted. Whoever keeps a connection has IDLE_S to ask once more; the answer carries
`connection: close`. A connection that stays idle is then ended by half: the end is sent, and for LINGER_S what still
arrives is read and dropped, since a socket that is closed with bytes unread resets its peer. Requests under way have
ANSWER_S. The sum is the longest that a server takes to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

IDLE_S = 2.0  # a client that asks at all steadily asks within it
LINGER_S = 0.5  # more than a request needs that was sent before the end of the connection was seen
ANSWER_S = 5  # uvicorn takes whole seconds
_LOOK_S = 0.02


class DrainState(ServerState):
    """What the connections of one server share."""

    draining = False

    def drain(self) -> None:
        """From now on each answer is the last of its connection. From any thread, and from a signal handler: it sets
        flags."""
        self.draining = True
        for connection in list(self.connections):
            if isinstance(connection, DrainingConnection):
                connection.last_answer()


class DrainingConnection(HttpToolsProtocol):
    """uvicorn's connection, which says `connection: close` once the state drains, and ends by half."""

    server_state: DrainState
    _ended = False

    def last_answer(self) -> None:
        """The request under way, if there is one, is the last on this connection and its answer will say so.

        One whose head is written already has not said so: the connection stays, and the next answer says it.
        """
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Called by uvicorn for each connection that is open when the server stops."""
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        else:
            self.end()

    def end(self) -> None:
        """Send the end behind what is written. What still arrives is read and dropped, where the transport has halves:
        TLS has none, and closes."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()


class Drained(Protocol):
    """What is asked of a server."""

    servers: list[asyncio.base_events.Server]
    force_exit: bool
    tls: ssl.SSLContext | None

    @property
    def server_state(self) -> ServerState: ...

    def connection(self) -> asyncio.Protocol: ...


async def finish(server: Drained, listeners: Sequence[socket.socket], idle_s: float) -> None:
    """Accept no more, and wait until every connection has had its last answer, at most `idle_s`.

    The state drains already. Called by the server before its own shutdown, which ends what is left by
    `DrainingConnection.shutdown`.
    """
    await _accept_last(server, listeners)
    deadline = time.monotonic() + idle_s
    while server.server_state.connections and not server.force_exit and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)


async def _accept_last(server: Drained, listeners: Sequence[socket.socket]) -> None:
    """Close the listeners, and take in what the kernel had accepted for them: with the last of their descriptors it
    would be reset.

    What comes between the last look and the close, a few microseconds, still is.
    """
    copies = [listener.dup() for listener in listeners]
    for one in server.servers:
        one.close()
    await asyncio.sleep(0)  # the loop closes its descriptors on its next turn
    waiting: list[socket.socket] = []
    for copy in copies:
        copy.setblocking(False)
        try:
            while True:
                waiting.append(copy.accept()[0])
        except BlockingIOError:
            copy.close()
    loop = asyncio.get_running_loop()
    bound = None if server.tls is None else IDLE_S
    for accepted in waiting:  # each enters the server's connections by itself
        with contextlib.suppress(OSError):  # of a handshake that fails
            await loop.connect_accepted_socket(
                server.connection,
                accepted,
                ssl=server.tls,
                ssl_handshake_timeout=bound,
            )
