"""What a worker process answers over HTTP: to Prometheus, and to whoever starts and stops it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from forebay.errors import ConfigError

log = logging.getLogger("forebay")
_RESUME = re.compile(r"/sources/([^/?#]{1,800})/resume")
REQUEST_S = 5.0  # for a request as a whole, reading it and answering: then its connection is closed
MOST_REQUESTS = 16  # at once, each on a thread: a few probes and a scrape. One more is closed unanswered


@dataclass(frozen=True)
class Status:
    """Each is called on the thread of a request. `waits` and `stands` give a reason, "" for none; `metrics` takes the
    request header `accept` and gives the bytes and their content type. `paused` says which sources stand still, and
    `resumed` asks that one be read again: the names of the workers that stood still for it."""

    waits: Callable[[], str]
    stands: Callable[[], str]
    metrics: Callable[[str], tuple[bytes, str]]
    paused: Callable[[], str] = str
    resumed: Callable[[str], Sequence[str]] = lambda topic: ()

    @contextmanager
    def served_at(self, address: str, setting: str = "--status") -> Iterator[str]:
        """Answer at `address` (host:port; port 0 takes a free one) until the block ends; yields the URL.

            GET /ready    whether work is done: 200 and {"ready": true}, or 503 and {"ready": false, "reason": …}
            GET /health   whether it turns: 200 and {"status": "ok"}, or 503 and {"status": "stuck", "reason": …}
            GET /metrics  for Prometheus
            POST /sources/TOPIC/resume   200 and {"resumed": [worker, …]}, or 404 where none stands still for it

        A source that stands still is a reason beside {"ready": true}, too: the others are read, and what mends it may
        be another version of this process. Raises ConfigError.
        """
        host, _, port = address.rpartition(":")
        try:
            server = _Server(host.strip("[]") or "127.0.0.1", int(port), self._handler())
        except (OSError, ValueError, OverflowError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"{setting} {address}: {said}", do="Use host:port of this machine, as 127.0.0.1:8081 or [::1]:8081"
            ) from None
        thread = threading.Thread(target=server.serve_forever, name="status", daemon=True)
        thread.start()
        bound_host, bound_port = server.server_address[:2]
        url = (
            f"http://[{bound_host!s}]:{bound_port}" if ":" in str(bound_host) else f"http://{bound_host!s}:{bound_port}"
        )
        log.info("status at %s/ready, /health and /metrics", url)
        try:
            yield url
        finally:
            server.shutdown()
            server.server_close()

    def _answer(self, path: str, accept: str) -> tuple[int, bytes, str] | None:
        if path == "/ready":
            reason = self.waits()
            told = {"ready": not reason, "reason": reason or self.paused()}
            return 503 if reason else 200, _json(told), "application/json"
        if path == "/health":
            reason = self.stands()
            said = {"status": "stuck", "reason": reason} if reason else {"status": "ok"}
            return 503 if reason else 200, _json(said), "application/json"
        if path == "/metrics":
            return (200, *self.metrics(accept))
        return None

    def _resume(self, path: str) -> tuple[int, bytes, str] | None:
        if (found := _RESUME.fullmatch(path)) is None:
            return None
        workers = list(self.resumed(unquote(found[1])))
        return 200 if workers else 404, _json({"resumed": workers}), "application/json"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer, resume = self._answer, self._resume

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_S

            def do_GET(self) -> None:
                self._send(answer(self.path.partition("?")[0], self.headers.get("accept", "")))

            def do_POST(self) -> None:
                self._send(resume(self.path))

            def _send(self, found: tuple[int, bytes, str] | None) -> None:
                if found is None:
                    self.send_error(404)
                    return
                status, body, content_type = found
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A probe every few seconds is no news."""

        return Handler


class _Server(ThreadingHTTPServer):
    """So many requests at once, each within its time, whatever a client does."""

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._until: dict[Any, float] = {}  # connection -> when its time is over
        super().__init__((host, port), handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more; called by socketserver for each connection, on the server's thread."""
        if len(self._until) >= MOST_REQUESTS:
            return False
        self._until[request] = time.monotonic() + REQUEST_S
        return True

    def service_actions(self) -> None:
        """End what takes too long; called by socketserver twice a second, on the server's thread. The thread of such a
        request reads an end, or cannot write."""
        now = time.monotonic()
        for request, until in list(self._until.items()):
            if until < now:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Called by socketserver at the end of each connection, on its own thread."""
        self._until.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news; anything else is a fault of ours."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            log.debug("status: %s went away: %r", client_address[0], error)
        else:
            log.error("status: a request failed: %r", error, exc_info=error)


def _json(said: Mapping[str, object]) -> bytes:
    return json.dumps(said).encode()
