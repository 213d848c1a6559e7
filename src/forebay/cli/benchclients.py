"""Clients of a serving benchmark, each in a process of its own, and what a round of them took.

with clients_of({"host": …, "port": …, "path": "/v1/rank", "packed": True, …}, 4) as clients:
    clients.round(4, 3.0, node.cpu_s)                # a Round
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forebay.arrays import Floats
from forebay.errors import ServerUnavailable

END_S = 30.0
OVER_HTTP = (sys.executable, "-W", "ignore", "-m", "forebay.cli.benchclient")


@dataclass(frozen=True)
class Round:
    """What was answered to so many clients at once."""

    micros: Floats  # of each lookup
    per_s: float
    server_us: float  # processor time for a lookup
    client_us: float

    def percentile(self, rank: float) -> float:
        """Of the lookups' times, in µs."""
        return float(np.percentile(self.micros, rank))


@dataclass(frozen=True)
class Clients:
    """Processes that wait for a round."""

    processes: Sequence[subprocess.Popen[str]]

    def round(self, count: int, seconds: float, cpu_s: Callable[[], float]) -> Round:
        """The first `count` of them ask for so long. `cpu_s` is asked for the servers' processor time before and
        after."""
        asking, before = self.processes[:count], cpu_s()
        for client in asking:
            _say(client, str(seconds))
        told = [json.loads(_line(client)) for client in asking]
        micros = np.concatenate([np.array(part["us"], np.float32) for part in told])
        used, client_s = cpu_s() - before, sum(part["cpu_s"] for part in told)
        return Round(micros, len(micros) / seconds, used * 1e6 / len(micros), client_s * 1e6 / len(micros))

    def check(self) -> list[tuple[str, float]]:
        """What the first one's lookup 0 is answered with: items and scores."""
        _say(self.processes[0], "check")
        return [(item, score) for item, score in json.loads(_line(self.processes[0]))]


@contextmanager
def clients_of(
    told: Mapping[str, Any],
    count: int,
    command: Sequence[str] = OVER_HTTP,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Clients]:
    """So many processes of `command`, which get `told` and their `number` as JSON, until the block ends.

    Raises ServerUnavailable when one does not start; why stands on standard error.
    """
    with ExitStack() as stack:
        processes = []
        for number in range(count):
            client = subprocess.Popen(
                [*command, json.dumps({**told, "number": number})], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, env=environment, cwd=folder,
            )  # fmt: skip
            stack.callback(_end, client)
            processes.append(client)
        for client in processes:
            if _line(client) != "ready\n":
                raise ServerUnavailable("a client of a bench did not start", where=" ".join(command))
        yield Clients(processes)


def _say(client: subprocess.Popen[str], line: str) -> None:
    assert client.stdin is not None
    with suppress(BrokenPipeError):  # it has ended: `_line` says so
        client.stdin.write(line + "\n")
        client.stdin.flush()


def _line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise ServerUnavailable("a client of a bench has ended", do="Read what it said above")
    return line


def _end(client: subprocess.Popen[str]) -> None:
    client.terminate()
    with suppress(BrokenPipeError):
        client.communicate(timeout=END_S)
