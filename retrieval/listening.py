"""A server on sockets that another process has bound."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from forebay.retrieval.drain import IDLE_S
from forebay.retrieval.server import _listen, _Server


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket for servers of other processes. Raises ConfigError when the port is in use."""
    with _listen(host, port) as listener:
        yield listener


def serve_at(app: Any, listeners: Sequence[socket.socket], *, on_ready: Callable[[str], None] | None = None) -> None:
    """`serve` on bound sockets, which other processes may accept from as well; `on_ready` gets the first one's
    address."""
    _Server(app, listeners[0], IDLE_S, on_ready).run(sockets=list(listeners))
