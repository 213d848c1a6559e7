"""An app of faust that is there for the stages alone: `forebay work --transport faust`."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import faust
from faust.app.base import BootStrategy

from forebay.streams.cluster import Cluster
from forebay.streams.host.connection import conf_of
from forebay.streams.host.stages import Stages
from forebay.streams.transports.faust.hooks import check

_STEP_S = 0.2


class WithoutStreams(BootStrategy):  # type: ignore[misc]
    """No producer, no consumer and no tables of the app's own."""

    enable_kafka = False


def app_alone(cluster: Cluster, folder: Path) -> Any:
    """An app without streams and web. faust keeps nothing in `folder`, and makes it all the same. Raises MissingExtra
    and HookMissing."""
    check()
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App("forebay", datadir=str(folder), web_enabled=False, **conf_of(cluster))
    app.boot_strategy = WithoutStreams(app)
    return app


def run(app: Any, stages: Stages, stop: threading.Event) -> None:
    """Run an app with `stages` in it on this thread, until `stop` is set or one of them ends.

    Raises what ended a worker. Where a thread is stuck the process ends.
    """
    app.add_dependency(stages)
    asyncio.run(_run(app, stages, stop))


async def _run(app: Any, stages: Stages, stop: threading.Event) -> None:
    try:
        await app.start()
        while not stop.is_set() and stages.error is None:
            await asyncio.sleep(_STEP_S)
    finally:
        await app.stop()
    if stages.error is not None:
        raise stages.error
