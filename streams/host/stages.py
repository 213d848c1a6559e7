"""The service of a faust app that runs the stages: their consumers are the app's, and each worker has a thread.

The app's loop has no part in a batch: records are fetched on the consumers' loops, read, folded and encoded on the
workers' threads, and committed on others. So neither a large batch holds up the app's agents, nor a slow agent a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka.errors import KafkaError
from mode import Service

from forebay.errors import BrokerUnavailable, ForebayError
from forebay.streams.transports.faust.transport import FaustTransport
from forebay.streams.transports.librdkafka.membership import Membership
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.supervisor import END_WITHIN_S, stuck, supervise

log = logging.getLogger("forebay.host")


class _NoTraceback(logging.Filter):
    """mode logs a traceback of whatever ends a service. One that has a name has been told in a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ForebayError))


logging.getLogger(__name__).addFilter(_NoTraceback())  # mode's logger of this module's services


class Carried:
    """Makes transports of an app, and knows them: a `Carry`."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.transports: list[FaustTransport] = []

    def __call__(self, membership: Membership) -> FaustTransport:
        """See FaustTransport."""
        self.transports.append(FaustTransport(self._app, membership))
        return self.transports[-1]


class Stages(Service):  # type: ignore[misc]
    """Started and stopped with the app, whose agents and tables it does not wait for. What ends a worker crashes the
    app; a worker that is stuck ends the process, since neither could be stopped."""

    def __init__(
        self,
        app: Any,
        make: Callable[[Carried], Sequence[Worker]],
        what: str,
        options: WorkerOptions = WorkerOptions(),
        carried: Carried | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """`make` is called with what makes their transports, on a thread: it may take its time. Where they are made
        already, `carried` made those. `what` they are is for people. `look` is called every 0.2 s by the thread that
        watches the workers."""
        super().__init__(beacon=app.beacon)
        self.workers: Sequence[Worker] = ()
        self.error: BaseException | None = None  # what ended them
        self._make, self._what, self._options = make, what, options
        self._carried, self._look = carried or Carried(app), look
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def status(self) -> dict[str, Any]:
        """How the stages are, for people and probes; offsets are of the next record. `lag` counts offsets, some of
        which are transactions' own marks."""
        waits = [f"{w.name}: {why}" for w in self.workers if (why := w.not_ready())]
        if not self.workers:
            waits = ["the stages are being loaded"]
        return {
            "ready": not waits,
            "waits": "; ".join(waits),
            "what": self._what,
            "stages": [_told(worker) for worker in self.workers],
        }

    # -- called by the app, on its loop

    async def on_start(self) -> None:
        """Nothing is waited for: loading takes seconds, and the app's agents are to start meanwhile."""
        self.add_future(self._run())

    async def on_stop(self) -> None:
        """The workers commit, write their stores and leave their groups: 8 s at most, then the process ends."""
        self._ends.set()
        if self._thread is not None:
            join = functools.partial(self._thread.join, END_WITHIN_S + 2)
            await asyncio.get_running_loop().run_in_executor(None, join)
        if stuck():
            _exit("a thread does not come back")

    async def _run(self) -> None:
        """Raises what ends a worker: mode then crashes the app with it."""
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(None, self._make, self._carried)
            await self._carry()
        except Exception as error:
            self.error = error
            log.error("%s: %s", type(error).__name__, error)
            raise
        if self._ends.is_set():
            return
        self.workers = made
        for worker in made:
            log.info("%s, group %s", worker.name, worker.group)
        ended = loop.create_future()
        self._thread = threading.Thread(target=self._supervise, args=(loop, ended), name="forebay", daemon=True)
        self._thread.start()
        await ended
        if self.error is not None:
            raise self.error

    async def _carry(self) -> None:
        """Start the consumers. Raises BrokerUnavailable."""
        for transport in self._carried.transports:
            try:
                await self.add_runtime_dependency(transport.carrier())
            except KafkaError as error:
                raise BrokerUnavailable(
                    f"no Kafka broker answers: {error}", where=transport.where,
                    do="Is it running, and does the app's own broker= name it? Run: forebay doctor",
                ) from None  # fmt: skip

    def _supervise(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """On a thread of its own: the watch goes on whatever the app's loop does."""
        try:
            supervise(self.workers, self._ends, stall_after_s=self._options.stall_after_s, look=self._look)
        except BaseException as error:  # noqa: BLE001 - raised on the app's loop
            self.error = error
            log.error("%s: %s", type(error).__name__, error)
            if stuck():
                _exit("a thread does not come back")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(None))


def _told(worker: Worker) -> dict[str, Any]:
    partitions = []
    for partition, progress in sorted(worker.progress().items()):
        end = worker.readable_end(partition)
        partitions.append(
            {
                "partition": str(worker.source(partition)),
                "committed": progress.committed,
                "applied": progress.applied,
                "end": end,
                "lag": None if end is None else max(0, end - progress.position),
            }
        )
    return {
        "name": worker.name,
        "stage": worker.stage.name,
        "group": worker.group,
        "waits": worker.not_ready(),
        "partitions": partitions,
    }


def _exit(why: str) -> None:
    """An interpreter would wait for what such a thread holds."""
    log.error("%s: what it had not committed is done again at the next start", why)
    logging.shutdown()
    os._exit(1)
