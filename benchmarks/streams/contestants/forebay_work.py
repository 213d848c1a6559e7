"""`forebay work` with any of its stages in one process, which says when a commit has ended.

    python forebay_work.py STAGE... [--slot NAME]

The settings are the FOREBAY_* variables, as the command reads them, and the workers are the command's own. Each commit
of the last STAGE is a line of standard output: {"at": monotonic s, "events": of this commit, "cpu": s of this process,
"waits": whether something is still to be encoded}. Runs until SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping

from forebay.cli.cluster import cluster
from forebay.cli.processes import stop_event
from forebay.config import load
from forebay.streams import installation
from forebay.streams.worker.supervisor import supervise
from forebay.telemetry import Detail, add_hook


def main() -> None:
    words = argparse.ArgumentParser(description="The stages of forebay work, and a line for each commit of the last")
    words.add_argument("stages", nargs="+", choices=installation.STAGES, metavar="STAGE")
    words.add_argument("--slot", default="0", help="another one for each process (0)")
    given = words.parse_args()
    stop = stop_event()
    last, waits = given.stages[-1], False

    def listen(name: str, details: Mapping[str, Detail]) -> None:
        nonlocal waits
        if name != "step" or details["number"] != 4 or details["stage"] != last:
            return
        waited, waits = waits, any(worker.waits for worker in workers if worker.stage.name == last)
        if details["events"] or waited:
            line = {"at": time.monotonic(), "events": details["events"], "cpu": time.process_time(), "waits": waits}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    add_hook(listen)
    settings, _ = load({})
    options = installation.options_of(settings, given.slot)
    workers = installation.workers(settings, cluster(settings), given.stages, options)
    supervise(workers, stop, stall_after_s=options.stall_after_s)


if __name__ == "__main__":
    main()
