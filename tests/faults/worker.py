"""One worker process for the fault tests: workers of the given stages that kill, pause or slow themselves at a step.

    python worker.py '{"bootstrap": …, "prefix": …, "bundle": …, "state": …, "fault": {"stage": …, "step": …, "at": …}}'

Where a file appears at the path `armed`, the process kills itself the next time that it passes the step that the file
names: [stage, step]. It ends by SIGTERM, as `forebay work` does: with everything written.
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

from forebay.cli.readiness import Readiness
from forebay.errors import ForebayError
from forebay.segments.bundle import Bundle
from forebay.store.checkpoints import Checkpoints
from forebay.streams.cluster import Cluster
from forebay.streams.intake.intake import Intake
from forebay.streams.topics import Topics
from forebay.streams.transports.librdkafka.start import intake_worker, side_worker
from forebay.streams.transports.librdkafka.transport import LibrdkafkaTransport
from forebay.streams.worker.options import WorkerOptions
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.protocol import Worker
from forebay.streams.worker.supervisor import stuck, supervise
from forebay.telemetry import add_hook


def _tell_assignments(kind: Any) -> None:
    plain = kind.open

    def opened(stage: Any, partition: int, *place: Any, **more: Any) -> Any:
        owned = plain(stage, partition, *place, **more)
        print(f"assigned {stage.name} {partition}", flush=True)
        return owned

    kind.open = opened


def main() -> int:
    given: dict[str, Any] = json.loads(sys.argv[1])
    bundle, topics, stop = Bundle.load(Path(given["bundle"])), Topics(given["prefix"]), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    fault, steps = given.get("fault"), Counter[tuple[Any, ...]]()
    armed = Path(given.get("armed", "/nowhere"))

    def hook(name: str, details: Any) -> None:
        # Heartbeats are no batches: only steps of events count, and the writes of the store.
        if name != "step" or not (details["events"] or details["number"] == 5):
            return
        if details["number"] == 3 or (details["stage"], details["number"]) == ("intake", 2):
            time.sleep(given.get("slow_s", 0))
        place = (details["stage"], details["number"])
        steps[place] += 1
        if armed.exists() and place == tuple(json.loads(armed.read_bytes())):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault and place == (fault["stage"], fault["step"]) and steps[place] == fault["at"]:
            if fault["signal"] == "HANG":  # a call that does not come back
                print("hanging", flush=True)
                time.sleep(1e6)
            os.kill(os.getpid(), getattr(signal, fault["signal"]))

    add_hook(hook)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("forebay").setLevel(logging.INFO)
    logging.getLogger("kafka").setLevel(logging.ERROR)
    for kind in (Intake, Processor):
        _tell_assignments(kind)
    options = WorkerOptions(**given["options"])
    checkpoints = Checkpoints(given["checkpoints"]) if "checkpoints" in given else None

    def make(carry: Any) -> list[Worker]:
        workers = []
        for stage in given["stages"]:
            state = Path(given["state"])
            if stage == "intake":
                folder = state / "intake"
                workers.append(intake_worker(given["bootstrap"], topics, folder, options, checkpoints, carry=carry))
            else:
                processor = Processor(bundle, stage, topics, given["generation"], given["partitions"], state)
                workers.append(side_worker(processor, given["bootstrap"], options, checkpoints, carry=carry))
        return workers

    code = 0
    try:
        if given.get("transport") == "faust":
            from forebay.streams.host.alone import app_alone, run
            from forebay.streams.host.stages import Stages

            app = app_alone(Cluster(given["bootstrap"]), Path(given["state"]) / "faust")
            run(app, Stages(app, make, "worker", options), stop)
        else:
            workers = make(LibrdkafkaTransport)
            readiness = Readiness(workers, "worker")
            supervise(workers, stop, stall_after_s=options.stall_after_s, look=readiness.look)
    except ForebayError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = 1
    if stuck():
        print("stuck", flush=True)
        os._exit(1)
    return code


if __name__ == "__main__":
    sys.exit(main())
