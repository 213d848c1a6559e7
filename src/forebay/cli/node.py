"""`forebay serve --processes N`: a replica that writes shared tables, N servers that answer from them, and the process
that keeps them.

    python -m forebay.cli.node '{"part": "replica" | "server", …}'      as `serve` starts it

All servers accept from one listening socket, and each has one of its own besides. A server that dies is started again.
So is the replica; meanwhile lookups are answered from what is there, and say how old it is.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from forebay.cli.cluster import cluster
from forebay.cli.collection import settle
from forebay.cli.family import Member, end_with_parent, keep
from forebay.cli.processes import entered, one_thread_for_algebra, seldom, stop_event
from forebay.cli.told import logged, told
from forebay.clock import now_ms
from forebay.config import Settings, load
from forebay.errors import StoreError
from forebay.served import behind, index_options, kept, served_model, shard_of

log = logging.getLogger("forebay")

SILENT_S = 5.0  # a replica that has said nothing for so long is not there
_SAY_S = 0.5
_TABLES_S = 600.0  # for a replica to open its store and make the tables


class Part(msgspec.Struct, frozen=True):
    """What one process of a node is: `flags` are the settings that were given as such, `number` a server's from 1 on,
    `listeners` its sockets' descriptors, the shared one first."""

    part: str
    parent: int
    flags: dict[str, Any]
    max_lag_s: float = 0.0
    number: int = 0
    listeners: tuple[int, ...] = ()


def serve_many(flags: Mapping[str, Any], max_lag_s: float, processes: int) -> int:
    """Run a node of so many server processes until SIGINT or SIGTERM; returns the exit code.

    Raises ConfigError when one of the ports is in use: `port`, and the `processes` that follow it; and what is wrong
    with the generation and its bundle, before anything is started.
    """
    stop = stop_event()
    from forebay.retrieval.server import listening

    settings = load(flags)[0]
    from forebay.store.halfforms import half_form

    half_form(settings.halves)
    served_model(settings)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    with ExitStack() as stack:
        shared = stack.enter_context(listening(settings.host, settings.port))
        members = []
        for number in range(1, processes + 1):
            own = stack.enter_context(listening(settings.host, settings.port + number))
            listeners = (shared.fileno(), own.fileno())
            part = Part("server", os.getpid(), given, max_lag_s, number, listeners)
            members.append(Member(f"server {number}", command(part), listeners))
        members.append(Member("the replica", command(Part("replica", os.getpid(), given))))  # it ends last
        # A usage error stays one; whatever else a process ends with may be over when it is started again.
        return keep(members, stop, lambda member, code: code == 2)


def replica(settings: Settings) -> None:
    """Follow the log into shared tables, until stopped."""
    stop = stop_event()
    from forebay.store.feedingcopy import FeedingCopy
    from forebay.store.halfforms import half_form
    from forebay.streams.arrival import once_it_answers
    from forebay.streams.installation import broker_within_s
    from forebay.streams.replica import Replica
    from forebay.streams.topics import Topics

    bundle, generation = served_model(settings)
    copy = FeedingCopy.open(
        bundle, generation, settings.vectors, settings.tables,
        shard=shard_of(settings), users_in_memory=settings.users_in_memory, index=index_options(settings),
        halves=half_form(settings.halves),
    )  # fmt: skip
    following: Replica | None = None

    def say() -> None:
        while not stop.is_set():
            copy.stand(now_ms(), following is not None and following.status().caught_up)
            stop.wait(_SAY_S)

    saying = threading.Thread(target=say, name="standing")
    saying.start()
    keeping = threading.Thread(target=kept, args=(copy.keep, stop), name="keeping")
    keeping.start()
    try:
        log.info("%d rows loaded from %s into %s", copy.load(), settings.vectors, settings.tables)
        copy.answer()
        following = once_it_answers(
            lambda: Replica(cluster(settings), Topics(settings.topic_prefix), copy), broker_within_s(settings), stop
        )
        if following is not None:
            following.run(stop)
    finally:
        stop.set()
        saying.join()
        keeping.join()
        copy.close()


def server(settings: Settings, part: Part) -> None:
    """Answer from the tables on both sockets, until stopped, or until the tables are others.

    Where metrics have a port of their own, those of the first server are there, and those of the next at the next.
    """
    from forebay.cli.inspecting import inspected
    from forebay.retrieval.engine import Engine
    from forebay.retrieval.messages import Readiness
    from forebay.retrieval.server import create_app, serve_at
    from forebay.segments.spec import SIDES
    from forebay.store.halfforms import half_form
    from forebay.store.sharedcopy import SharedCopy

    bundle, generation = served_model(settings)
    elsewhere, index, form = settings.users_in_memory > 0, index_options(settings), half_form(settings.halves)
    where = (bundle, generation, settings.tables)
    copy = _when_there(
        lambda: SharedCopy.open(*where, shard=shard_of(settings), users_elsewhere=elsewhere, index=index, halves=form)
    )

    def ready() -> Readiness:
        if copy.retired:
            log.info("the tables were made anew: this server begins anew with them")
            signal.raise_signal(signal.SIGTERM)
        return _readiness(copy, part.max_lag_s)

    def tell(address: str) -> None:
        settle()
        users, items = (copy.rows()[side] for side in SIDES)
        where = f"{address}, server {part.number}, generation {generation.name}"
        log.info("ready at %s: %s users, %s items", where, f"{users:,}", f"{items:,}")

    listeners = [socket.socket(fileno=descriptor) for descriptor in part.listeners]
    engine = Engine(bundle, copy)
    with inspected(settings, bundle, engine) as page:
        app = create_app(engine, seldom(ready), page=page)
        with entered(settings, app, _following(settings.metrics, part.number - 1)) as door:
            serve_at(app, listeners, door=door, on_ready=tell)


def _following(address: str, steps: int) -> str:
    """So many ports after that of `address`; port 0 takes a free one each time. What is no address stays as it is:
    whoever listens there says so."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + steps}" if port.isdecimal() and int(port) else address


def _readiness(copy: Any, max_lag_s: float) -> Any:
    from forebay.retrieval.messages import Readiness

    standing, as_of = copy.standing(), copy.as_of()
    silent_s, lag_s = (now_ms() - standing.said_ms) / 1000, (now_ms() - as_of) / 1000
    reason = ""
    if silent_s > SILENT_S:
        reason = (
            f"the replica has not been there for {silent_s:.0f} s" if standing.said_ms else "no replica was there yet"
        )
    elif not standing.caught_up:
        reason = "the copy is still being read"
    else:
        reason = behind(lag_s, max_lag_s)
    return Readiness(not reason, reason, round(lag_s * 1000), answers=bool(reason) and standing.complete)


def _when_there(open_it: Callable[[], Any]) -> Any:
    """The copy, as soon as the replica has made its tables."""
    until = time.monotonic() + _TABLES_S
    while True:
        try:
            return open_it()
        except StoreError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def command(part: Part) -> list[str]:
    """What starts it."""
    return [sys.executable, "-m", "forebay.cli.node", json.dumps(msgspec.to_builtins(part))]


def main() -> int:
    """One part of a node."""
    part = msgspec.json.decode(sys.argv[1], type=Part)
    one_thread_for_algebra()
    end_with_parent(part.parent)
    logged()
    settings = load(part.flags)[0]
    return told(lambda: replica(settings) if part.part == "replica" else server(settings, part))


if __name__ == "__main__":
    sys.exit(main())
