"""One worker process for the fault tests: Hosts of the given sides that kill, pause or slow themselves at a step.

    python worker.py '{"bootstrap": …, "prefix": …, "bundle": …, "state": …, "fault": {"side": …, "step": …, "at": …}}'

It ends by SIGTERM, as `forebay work` does: with everything written.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from forebay.segments.bundle import Bundle
from forebay.streams.host import Host, HostOptions
from forebay.streams.processor import Processor
from forebay.streams.topics import Topics
from forebay.telemetry import add_hook


def main() -> int:
    given: dict[str, Any] = json.loads(sys.argv[1])
    bundle, topics, stop = Bundle.load(Path(given["bundle"])), Topics(given["prefix"]), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    fault, steps = given.get("fault"), Counter[tuple[Any, ...]]()

    def hook(name: str, details: Any) -> None:
        # Heartbeats are no batches: only steps of events count, and the writes of the store.
        if name != "step" or not (details["events"] or details["number"] == 5):
            return
        if details["number"] == 3:
            time.sleep(given.get("slow_s", 0))
        place = (details["side"], details["number"])
        steps[place] += 1
        if fault and place == (fault["side"], fault["step"]) and steps[place] == fault["at"]:
            os.kill(os.getpid(), getattr(signal, fault["signal"]))

    add_hook(hook)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("forebay").setLevel(logging.INFO)
    failed: list[BaseException] = []
    open_partition = Processor.open

    def opened(processor: Processor, partition: int, topic_id: str, offset: int, *, create: bool = True) -> Any:
        owned = open_partition(processor, partition, topic_id, offset, create=create)
        print(f"assigned {processor.side} {partition}", flush=True)
        return owned

    Processor.open = opened  # type: ignore[method-assign]

    def run(host: Host) -> None:
        try:
            host.run(stop)
        except BaseException as error:  # noqa: BLE001 - printed below
            failed.append(error)
        stop.set()

    hosts = []
    for side in given["sides"]:
        processor = Processor(bundle, side, topics.source(side), given["partitions"], Path(given["state"]))
        options = HostOptions(**given["options"])
        hosts.append(Host(processor, given["bootstrap"], topics, given["generation"], options))
    threads = [threading.Thread(target=run, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # a signal is handled between joins
    for error in failed:
        print(f"{type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
