"""A faust app that runs on a thread of its own, as `faust worker` runs it on the main one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

import faust

from forebay.streams.host.alone import WithoutStreams

WITHIN_S = 60.0


class RunningApp:
    """`app` runs until the block ends; `call` runs a coroutine on its loop."""

    def __init__(self, bootstrap: str, folder: Path, *, name: str = "host", streams: bool = False, **conf: Any) -> None:
        """With `streams`, agents run too."""
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)  # what is attached before the start asks for this thread's
        self.app = faust.App(
            name, broker=f"kafka://{bootstrap}", datadir=str(folder / name), loop=self.loop,
            topic_disable_leader=True, **({"web_enabled": False} | conf),
        )  # fmt: skip
        if not streams:
            self.app.boot_strategy = WithoutStreams(self.app)
        self._thread = threading.Thread(target=self._run, name="app", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WITHIN_S)

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self.app.start())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call(self.app.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(WITHIN_S)
            asyncio.set_event_loop(None)
            self.loop.close()
            # An app without streams makes a consumer all the same, whose thread never runs and never closes its loop.
            unused = self.app.consumer._thread.thread_loop
            if not unused.is_closed():
                unused.close()
