"""Server processes for benches and tests: those of `forebay serve --processes`, over tables of random vectors that this
process writes as a replica does. No broker.

with node_of_benches(bundle, folder, processes=2) as node:
    ...                                             # node.url, node.cpu_s()
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from forebay.cli.node import Part, command
from forebay.clock import now_ms
from forebay.errors import ForebayError, ServerUnavailable
from forebay.retrieval.client import Client
from forebay.retrieval.server import listening
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import RowCodec, Rows
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.indexkeeper import IndexOptions

ITEMS, USERS = 100_000, 10_000
NAME, FILL, SAY_S, START_S = "bench", 8_192, 1.0, 300.0  # a start compiles kernels where none are kept
WITHOUT_LISTS = IndexOptions(flat_rows=1 << 40)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Node:
    """Servers that accept at one address, and the copy that they answer from."""

    host: str
    port: int
    copy: FeedingCopy
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where they answer."""
        return f"http://{self.host}:{self.port}"

    def cpu_s(self) -> float:
        """Processor time that the servers have used since they started, in seconds."""
        return sum(cpu_s(server.pid) for server in self.servers)


@contextmanager
def node_of_benches(
    bundle: Bundle,
    folder: Path,
    processes: int = 1,
    *,
    items: int = ITEMS,
    users: int = USERS,
    index: IndexOptions = IndexOptions(),
    own_session: bool = False,
) -> Iterator[Node]:
    """So many servers of items i0… and users u0…, until the block ends. What they say goes to `folder`/servers.log.

    This process makes the lists of the index, on threads beside the block; WITHOUT_LISTS is for who only ranks.
    A busy machine may share its cores by session: with `own_session` this process takes nothing of the servers' share.
    Raises ServerUnavailable when they are not ready in time, or when one has ended.
    """
    generation = Generation.new(NAME, bundle.hash, dict.fromkeys(SIDES, 1), {})
    generation.save(folder / "generations" / NAME)
    bundle.save(folder / "bundles")
    with ExitStack() as stack:
        copy = FeedingCopy.open(bundle, generation, folder / "vectors" / NAME, folder / "tables" / NAME, index=index)
        stack.callback(copy.close)
        _fill(copy, {"user": users, "item": items})
        stop = threading.Event()
        saying = threading.Thread(target=_say, args=(copy, stop))
        saying.start()
        stack.callback(saying.join)
        stack.callback(stop.set)
        listener = stack.enter_context(listening("127.0.0.1", 0))
        host, port = listener.getsockname()[:2]
        node = Node(host, port, copy)
        flags = {"data_dir": str(folder), "generation": NAME}
        log = stack.enter_context((folder / "servers.log").open("wb"))
        for number in range(1, processes + 1):
            part = Part("server", os.getpid(), flags, 1e9, number, (listener.fileno(),))
            server = subprocess.Popen(
                command(part), stdout=log, stderr=log, pass_fds=part.listeners, start_new_session=own_session
            )
            stack.callback(_end, server)
            node.servers.append(server)
        _await(node, folder)
        yield node


def rows_of(codec: RowCodec, count: int, random: np.random.Generator) -> Rows:
    """Rows of random vectors, written just now."""
    rows, now = codec.empty(count), now_ms()
    for segment in codec.segments:
        part = rows["segments"][segment.name]
        part["vector"] = random.integers(-127, 128, part["vector"].shape)
        part["scale"], part["as_of"], part["last_event"] = 0.01, now, now
    return rows


def cpu_s(pid: int) -> float:
    """Processor time that a process of this machine has used, in seconds; to 10 ms."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def waited_s(pid: int) -> float:
    """How long threads of a process of this machine were ready to run and had no core, in seconds."""
    found = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            found += int((task / "schedstat").read_text().split()[1]) / 1e9
    return found


def resident_mb(pid: int) -> float:
    """Memory that a process of this machine holds, in MiB, without what it maps of files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon:"))) / 1024


def _fill(copy: FeedingCopy, counts: dict[Side, int]) -> None:
    random = np.random.default_rng(0)
    for side, count in counts.items():
        for first in range(0, count, FILL):
            names = [f"{side[0]}{n}" for n in range(first, min(count, first + FILL))]
            copy.show(side, names, rows_of(copy.codecs[side], len(names), random), [0] * len(names))
        copy.write(side, [], [], {0: now_ms()}, {})


def _say(copy: FeedingCopy, stop: threading.Event) -> None:
    copy.stand(now_ms(), True)
    while not stop.wait(SAY_S):
        copy.stand(now_ms(), True)


def _await(node: Node, folder: Path) -> None:
    """Wait until each server is at work: one that is warm takes every connection that the others do not."""
    until = time.monotonic() + START_S
    said = folder / "servers.log"
    while time.monotonic() < until:
        if any(server.poll() is not None for server in node.servers):
            break
        if said.read_text(errors="replace").count("ready at") >= len(node.servers):
            with suppress(ForebayError), Client(node.url, timeout_s=5.0) as client:
                if client.ready().ready:
                    return
        time.sleep(0.05)
    words = said.read_text(errors="replace").splitlines()[-5:]
    raise ServerUnavailable("the servers of a bench did not get ready", where=" ".join(words) or str(said))


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
