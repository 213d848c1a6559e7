"""`forebay work` and `forebay serve`: the two long-running processes, put together from their rooms."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from forebay.cli.collection import settle
from forebay.cli.console import print_error
from forebay.cli.letterlog import letters_logged
from forebay.config import Settings
from forebay.errors import ForebayError, UsageError
from forebay.served import behind, kept, opened_copy, served_model
from forebay.streams import installation

if TYPE_CHECKING:
    from forebay.cli.readiness import Liveness, Readiness
    from forebay.retrieval.app import App
    from forebay.retrieval.door import Door
    from forebay.streams.worker.protocol import Worker

log = logging.getLogger("forebay")
LOOK_S = 0.05
T = TypeVar("T")
TRANSPORTS = ("librdkafka", "faust")


def stop_event() -> threading.Event:
    """Set by SIGINT or SIGTERM: a worker then leaves its group with everything written."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def work(settings: Settings, only: str | None, slot: str, *, transport: str) -> None:
    """A worker of the Intake and of each side, or of `only` one of them, until stopped. An error in one ends all, and
    the process with them: a supervisor starts it again. A broker that does not answer at the start is waited for.

    The setting `status` (host:port) answers what status.py says. `transport` is who carries them: librdkafka, or faust.
    Does not return when a thread is stuck: the process ends.
    """
    stop = stop_event()  # before the modules below are loaded, which takes seconds
    from forebay.cli.cluster import cluster
    from forebay.cli.readiness import Liveness, Readiness
    from forebay.cli.traces import traces_sent
    from forebay.streams.arrival import once_it_answers
    from forebay.streams.worker.supervisor import stuck, supervise

    if transport not in TRANSPORTS:
        raise UsageError(f"--transport {transport!r}", do=f"Use one of {', '.join(TRANSPORTS)}")
    stages, options, kafka = installation.chosen(only), installation.options_of(settings, slot), cluster(settings)
    what = installation.about(settings, stages, slot)
    if transport == "faust":
        from forebay.streams.host.alone import app_alone, run
        from forebay.streams.host.stages import Carried, Stages

        app = app_alone(kafka, settings.intake.parent / "@faust")
        carried = Carried(app)
    else:
        carried = None

    def made() -> list[Worker]:
        if carried is not None:
            carried.transports.clear()  # of a call before this one, which found no broker
        return installation.workers(settings, kafka, stages, options, carried)

    workers = once_it_answers(made, installation.broker_within_s(settings), stop)
    if workers is None:
        return
    if transport != "faust":
        for one in workers:
            log.info("%s, group %s", one.name, one.group)
    readiness = Readiness(workers, f"{what}, broker {settings.bootstrap}")
    liveness = Liveness(workers, options.stall_after_s)

    def look() -> None:
        liveness.look()
        readiness.look()

    settle()
    with letters_logged(), traces_sent(), _status(settings, workers, readiness, liveness):
        try:
            if transport == "faust":
                run(app, Stages(app, lambda _: workers, what, options, carried, look), stop)
            else:
                supervise(workers, stop, stall_after_s=options.stall_after_s, look=look)
        except ForebayError as error:
            if not stuck():
                raise
            print_error(error)
    if stuck():  # the interpreter would wait for what such a thread holds
        log.error("a thread does not come back: what it had not committed is done again at the next start")
        logging.shutdown()
        os._exit(1)


@contextmanager
def _status(settings: Settings, workers: Sequence[Worker], readiness: Readiness, liveness: Liveness) -> Iterator[None]:
    """Who asks is answered while the block runs, where the settings say at what address."""
    if not settings.status:
        yield
        return
    from forebay.cli.status import Status
    from forebay.exposition import Build
    from forebay.store.generation import Generation, numeric_platform
    from forebay.streams.worker.metrics import WorkerMetrics
    from forebay.telemetry import add_hook

    build = Build(platform=numeric_platform())
    if any(worker.stage.name != "intake" for worker in workers):
        generation = Generation.load(settings.generation_dir, name=settings.generation)
        build = replace(build, generation=generation.name, bundle=generation.bundle_hash)
    metrics = WorkerMetrics(workers, build)
    remove = add_hook(metrics)
    try:
        with Status(readiness.waits, liveness.stands, metrics.exposed, readiness.paused, readiness.resumed).served_at(
            settings.status
        ):
            yield
    finally:
        remove()


def seldom(ask: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> Callable[[], T]:
    """`ask`, whose answer stands for LOOK_S of `clock`: readiness is asked before each lookup. From any thread."""
    seen: tuple[float, T] | None = None

    def answer() -> T:
        nonlocal seen
        now, known = clock(), seen
        if known is None or now - known[0] > LOOK_S:
            known = seen = (now, ask())
        return known[1]

    return answer


def one_thread_for_algebra() -> None:
    """Before numpy is loaded. A lookup's matrices are small: a second thread for them gains nothing on a free machine,
    and on a busy one its first waits for it (13 ms of processor time instead of 2 for each lookup were seen). Cores are
    for other requests."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def entered(settings: Settings, app: App, metrics: str) -> Iterator[Door]:
    """The door of a server of `app`; while the block runs, its metrics are at the address `metrics`, where that names
    one."""
    from forebay.cli.status import Status
    from forebay.retrieval.door import Door

    with ExitStack() as stack:
        if metrics:
            beside = Status(lambda: app.ready().reason, str, app.exposed)
            stack.enter_context(beside.served_at(metrics, "metrics"))
        yield Door(settings.server_certificate, settings.server_key, settings.server_tokens, not metrics)


def serve(settings: Settings, max_lag_s: float) -> None:
    """A Replica on a thread, and the server over its copy, until stopped or until the replica cannot go on.

    One line of the log says when lookups are answered, and where: connections are taken and the copy has caught up."""
    one_thread_for_algebra()
    from forebay.cli.cluster import cluster
    from forebay.cli.inspecting import inspected
    from forebay.retrieval.engine import Engine
    from forebay.retrieval.messages import Readiness
    from forebay.retrieval.server import create_app
    from forebay.retrieval.server import serve as listen
    from forebay.segments.spec import SIDES
    from forebay.streams.arrival import once_it_answers
    from forebay.streams.replica import Replica
    from forebay.streams.topics import Topics

    bundle, generation = served_model(settings)
    copy = opened_copy(settings, bundle, generation)
    stop = threading.Event()
    replica = once_it_answers(
        lambda: Replica(cluster(settings), Topics(settings.topic_prefix), copy),
        installation.broker_within_s(settings), stop,
    )  # fmt: skip
    assert replica is not None, "nobody stops it before it listens"

    def ready() -> Readiness:
        status = replica.status()
        lag_ms = round(status.lag_s * 1000)
        if not status.caught_up:
            return Readiness(False, "the copy is still being read", lag_ms)
        reason = behind(status.lag_s, max_lag_s)
        return Readiness(not reason, reason, lag_ms)

    engine = Engine(bundle, copy)

    def tell(address: str) -> None:
        settle()
        users, items = (replica.status().rows[side] for side in SIDES)
        log.info("ready at %s, generation %s: %s users, %s items", address, generation.name, f"{users:,}", f"{items:,}")

    with (
        inspected(settings, bundle, engine) as page,
        ThreadPoolExecutor(2, thread_name_prefix="replica") as pool,
    ):
        app = create_app(engine, seldom(ready), page=page)
        # A replica that cannot go on ends the server in its own order; its error is raised below.
        follower = pool.submit(replica.run, stop)
        keeper = pool.submit(kept, copy.keep, stop)
        follower.add_done_callback(lambda _: None if stop.is_set() else signal.raise_signal(signal.SIGTERM))
        try:
            with entered(settings, app, settings.metrics) as door:
                listen(app, settings.host, settings.port, door=door, on_ready=tell)
        finally:
            stop.set()
            wait([follower, keeper])
            copy.close()
    follower.result()
