"""What becomes of a request that is here: it is refused, begun, or put into a lane of the admission."""

from __future__ import annotations

import asyncio
import math
import time
import urllib.parse
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from forebay.retrieval.admission import Refusal, Turn
from forebay.retrieval.bounds import BoundedConnection, Request
from forebay.retrieval.messages import MSGPACK, ErrorBody
from forebay.retrieval.wire import RETRY_AFTER, packed, response

_WORDS = {
    Refusal.OVERLOADED: (
        429,
        ErrorBody("overloaded", "more is asked than can be answered in time", "Ask another server, or later"),
        (RETRY_AFTER,),
    ),
    Refusal.DEADLINE: (
        504,
        ErrorBody("deadline_exceeded", "the time was over before the work began", "Allow more time, or send less"),
        (),
    ),
}
_REFUSALS = {
    (refusal, as_msgpack, close): response(
        status, error, ((b"accept", MSGPACK.encode() if as_msgpack else b"*/*"),), close=close, more=more
    )
    for refusal, (status, error, more) in _WORDS.items()
    for as_msgpack in (False, True)
    for close in (False, True)
}


class Connection(BoundedConnection):
    """uvicorn's connection, drained, bounded, and with an admission in front of lookups."""

    def _take(self, request: Request) -> None:
        """Its turn on this connection has come, and all of it is here: it is refused, begun, or put into a lane."""
        try:
            url = httptools.parse_url(request.url)
            path = urllib.parse.unquote((url.path or b"/").decode("ascii"))
        except (httptools.HttpParserError, ValueError):
            self._refuse(400, ErrorBody("bad_request", "the request's target is none"), request.headers)
            return
        state = self.server_state
        if not state.admission.admits(path):
            self._run(self._cycle_of(request, url, path))
            return
        lane, kind, now = state.admission.lane(path), state.admission.kind(path, len(request.body)), time.perf_counter()
        left_s = math.inf
        if request.budget_ms is not None:
            left_s = request.budget_ms / 1000 - (now - request.arrived)
        refusal = lane.refuses(kind, now, left_s)
        if refusal is not None:
            self._refuse_one(request, refusal)
            return
        cycle = self._cycle_of(request, url, path)

        def start() -> asyncio.Task[None]:
            if lane is state.admission.lookups:
                state.admission.turn()
            return self._run(cycle)

        lane.put(Turn(kind, start, lambda: not cycle.disconnected, now))

    def _run(self, cycle: RequestResponseCycle) -> asyncio.Task[None]:
        task = self.loop.create_task(cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        return task

    def _refuse_one(self, request: Request, refusal: Refusal) -> None:
        """A request alone: the connection goes on. Nine in ten requests may end here, so that this costs a write."""
        self.server_state.refused[refusal.value] += 1
        close = self.server_state.draining or not request.keep
        self.transport.write(_REFUSALS[refusal, packed(request.headers), close])
        if close:
            self.end()
        self._answered()

    def _cycle_of(self, request: Request, url: Any, path: str) -> RequestResponseCycle:
        self.cycle = RequestResponseCycle(
            scope=self._scope_of(request, url, path),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.keep and not self.server_state.draining,
            on_response=self._answered,
        )
        self.cycle.body, self.cycle.more_body = request.body, False
        self.cycle.message_event.set()
        return self.cycle

    def _scope_of(self, request: Request, url: Any, path: str) -> Any:
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": request.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "method": request.method,
            "path": path,
            "raw_path": url.path or b"/",
            "query_string": url.query or b"",
            "headers": request.headers,
            "state": {"arrived": request.arrived},
        }
