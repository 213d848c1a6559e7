"""The servers of a node of several processes, over tables that this process writes as a replica does."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from forebay.cli.family import FamilyOptions, Member, keep
from forebay.cli.node import Part, command
from forebay.clock import now_ms
from forebay.errors import ForebayError
from forebay.retrieval.client import Client
from forebay.retrieval.server import listening
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.store.codec import codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation

WAIT_S = 120.0  # a cold cache of kernels, beside other work
ITEMS = [f"i{n}" for n in range(20)]


class Node:
    """Two servers; `copy` is what a replica would write, and says that it is there while `present`."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        generation = Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, 1), {})
        generation.save(folder / "generations" / "g1")
        bundle.save(folder / "bundles")
        self.bundle, self.stop, self.present, self.caught_up = bundle, threading.Event(), True, True
        self._stack = ExitStack()
        shared = self._stack.enter_context(listening("127.0.0.1", 0))
        own = [self._stack.enter_context(listening("127.0.0.1", 0)) for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in (shared, *own)]
        self.clients = [Client(url, timeout_s=10.0) for url in self.urls]
        self.metrics = _two_ports()
        flags = {"data_dir": str(folder), "metrics": f"127.0.0.1:{self.metrics}"}
        self.servers = []
        for number, one in enumerate(own, 1):
            fds = (shared.fileno(), one.fileno())
            part = Part("server", os.getpid(), flags, 30.0, number, fds)
            self.servers.append(Member(f"server {number}", command(part), fds))
        self.codes: list[int] = []
        options = FamilyOptions(pause_s=0.1)
        self._threads = [
            threading.Thread(
                target=lambda: self.codes.append(keep(self.servers, self.stop, lambda *_: False, options))
            ),
            threading.Thread(target=self._say),
        ]
        self.copy = FeedingCopy.open(bundle, generation, folder / "vectors" / "g1", folder / "tables" / "g1")
        for thread in self._threads:
            thread.start()

    def _say(self) -> None:
        while not self.stop.wait(0.1):
            if self.present:
                self.copy.stand(now_ms(), self.caught_up)

    def put(self, side: Side, ids: list[str], seed: int) -> None:
        """Random rows of now."""
        codec, random, now = codec_of(self.bundle, side), np.random.default_rng(seed), now_ms()
        rows = codec.empty(len(ids))
        for slot in codec.segments:
            part = rows["segments"][slot.name]
            part["vector"] = random.integers(-127, 128, (len(ids), slot.dim))
            part["scale"], part["as_of"], part["last_event"] = 0.01, now, now - 5
        puts = [(entity, 0, value) for entity, value in zip(ids, codec.pack(rows, ids), strict=True)]
        self.copy.write(side, puts, [], {0: now}, {})

    def says(self, client: Client) -> str | None:
        """Why it is not ready, "" where it is; None where nobody answers."""
        try:
            return client.ready().reason
        except ForebayError:
            return None

    def ready(self) -> bool:
        now = now_ms()
        for side in SIDES:  # as heartbeats do
            self.copy.write(side, [], [], {0: now}, {})
        return all(self.says(client) == "" for client in self.clients)

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        for client in self.clients:
            client.close()
        self._stack.close()
        self.copy.close()


def _two_ports() -> int:
    """A port that is free, as is the next one."""
    while True:
        with listening("127.0.0.1", 0) as one, suppress(ForebayError), listening("127.0.0.1", one.getsockname()[1] + 1):
            return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def node(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node(bundle, tmp_path_factory.mktemp("node"))
    made.put("item", ITEMS, 1)
    made.put("user", ["u"], 2)
    yield made
    made.end()


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_all_servers_answer_alike_and_see_what_is_written(node: Node) -> None:
    """On the shared port and on each one's own."""
    _until(node.ready)
    answers = [[(hit.item, hit.score) for hit in client.rank("u", ITEMS, k=20)] for client in node.clients]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 20
    node.put("user", ["u"], 3)
    later = [[(hit.item, hit.score) for hit in client.rank("u", ITEMS, k=20)] for client in node.clients]
    assert later[0] == later[1] == later[2] != answers[0]


def test_each_server_has_its_metrics_at_a_port_of_its_own(node: Node) -> None:
    """The first one's is the one that is set, and those of the next follow; lookups' ports have none."""
    _until(node.ready)
    for number in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics + number}/metrics", timeout=10) as answer:
            assert b"forebay_request_seconds" in answer.read()
    for url in node.urls:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/metrics", timeout=10)


def test_a_killed_server_comes_back(node: Node) -> None:
    """Meanwhile the other one answers."""
    _until(node.ready)
    victim = node.servers[0].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert node.clients[2].rank("u", ITEMS, k=5).user_known
    _until(lambda: node.servers[0].pid not in (None, victim) and node.ready())
    assert node.clients[1].rank("u", ITEMS, k=5).user_known


def test_lookups_go_on_without_the_replica_and_readiness_says_so(node: Node) -> None:
    """One that begins anew is told of as well; what is answered says how old it is."""
    _until(node.ready)
    node.present = False
    try:
        _until(lambda: all("the replica has not been there" in (node.says(client) or "") for client in node.clients))
        answers = [client.rank("u", ITEMS, k=5) for client in node.clients]
        as_of = answers[0].segments["recent"].as_of
        assert all(answer.user_known for answer in answers) and as_of is not None and now_ms() - as_of > 4000
        node.present, node.caught_up = True, False
        _until(lambda: all(node.says(client) == "the copy is still being read" for client in node.clients))
        assert node.clients[0].rank("u", ITEMS, k=5).user_known
    finally:
        node.present = node.caught_up = True
    _until(node.ready)


def test_a_node_ends_when_it_is_told_to(node: Node) -> None:
    """Without an error, and nobody listens any more."""
    node.stop.set()
    _until(lambda: node.codes == [0])
    assert [node.says(client) for client in node.clients] == [None] * 3
