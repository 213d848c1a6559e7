"""`forebay serve --processes`: several processes answer from the rows that one writes, and one keeps them all."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from time import time_ns

import pytest

from forebay.errors import ForebayError
from forebay.events import Behaviour
from forebay.retrieval.client import Client
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

from .conftest import Installation, free_port

pytestmark = pytest.mark.broker


class Node:
    """Two servers and a replica beside the installation's own server, with stores and ports of their own."""

    def __init__(self, installation: Installation) -> None:
        self.installation, self.port = installation, _three_ports()
        self.clients = [Client(f"http://127.0.0.1:{self.port + k}", timeout_s=10.0) for k in range(3)]
        folder = installation.folder
        words = ("--processes", "2", "--port", str(self.port), "--vectors", str(folder / "node"))
        installation.start("serve", *words, "--tables", str(folder / "tables"), name="node")

    def pid(self, part: str) -> int | None:
        """Of the process that is the "replica", or "server" 1 or 2 by its number."""
        supervisor = self.installation.children["node"].pid
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (folder / "cmdline").read_text()
            except (OSError, IndexError):  # gone meanwhile
                continue
            kind, _, number = part.partition(" ")
            if parent == supervisor and f'"part": "{kind}"' in words and f'"number": {number or 0}' in words:
                return int(folder.name)
        return None

    def says(self, client: Client) -> str | None:
        """Why it is not ready, "" where it is; None where nobody answers."""
        try:
            return client.ready().reason
        except ForebayError:
            return None

    def ready(self) -> bool:
        return all(self.says(client) == "" for client in self.clients)


@pytest.fixture(scope="module")
def node(installation: Installation) -> Iterator[Node]:
    made = Node(installation)
    installation.until(made.ready)
    yield made
    for client in made.clients:
        client.close()


def _three_ports() -> int:
    while True:
        first = free_port()
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


def test_every_process_answers_as_one_does(node: Node, installation: Installation) -> None:
    """On the shared port and on each one's own; what is told is equal, and scores are to what float16 keeps."""
    installation.until(installation.is_current)
    items = [f"i{n}" for n in range(70)]
    for user in ("u3", "u4", "nobody"):
        mine = {hit.item: hit for hit in installation.client.rank(user, items, k=70)}
        for client in node.clients:
            theirs = client.rank(user, items, k=70)
            assert {hit.item for hit in theirs} == set(mine)
            for hit in theirs:
                assert hit.known == mine[hit.item].known and hit.score == pytest.approx(mine[hit.item].score, abs=0.01)
            found = [hit.item for hit in client.retrieve(user, k=10)]
            assert found == [hit.item for hit in installation.client.retrieve(user, k=10)]


def test_an_event_is_seen_by_all(node: Node, installation: Installation) -> None:
    newest = time_ns() // 1_000_000
    with EventPublisher(installation.kafka.bootstrap, topics=Topics(installation.prefix)) as events:
        events.send(Behaviour("u9", "i2", "rate", 5.0, newest))

    def seen(client: Client) -> bool:
        recent = client.entity("user", "u9").segments["recent"]
        return (recent.freshness.last_event or 0) >= newest

    installation.until(lambda: all(map(seen, node.clients)))


def test_a_killed_server_comes_back(node: Node, installation: Installation) -> None:
    """kill -9: the other one answers on the shared port meanwhile, and the node stays whole."""
    victim, replica = node.pid("server 1"), node.pid("replica")
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    installation.until(lambda: node.pid("server 1") not in (None, victim))
    assert node.clients[2].rank("u3", ["i1", "i2"], k=2).user_known
    installation.until(node.ready)
    assert node.pid("replica") == replica


def test_lookups_go_on_without_the_replica_and_readiness_says_so(node: Node, installation: Installation) -> None:
    """A paused one is told of after five seconds; a killed one is another one, and everything is ready again."""
    replica = node.pid("replica")
    assert replica is not None
    os.kill(replica, signal.SIGSTOP)
    try:
        installation.until(lambda: all("replica has not been there" in (node.says(c) or "") for c in node.clients))
        before = [client.rank("u3", ["i1", "i2"], k=2) for client in node.clients]
        assert all(answer.user_known for answer in before)
        as_of = before[0].segments["recent"].as_of
        assert as_of is not None and time_ns() // 1_000_000 - as_of > 4000  # as old as it is
    finally:
        os.kill(replica, signal.SIGKILL)
    installation.until(lambda: node.pid("replica") not in (None, replica))
    installation.until(node.ready)
    after = node.clients[0].rank("u3", ["i1", "i2"], k=2)
    assert (after.segments["recent"].as_of or 0) > as_of


def test_sigterm_ends_all_of_them(node: Node, installation: Installation) -> None:
    """With exit code 0, and nobody is left."""
    pids = [node.pid(part) for part in ("server 1", "server 2", "replica")]
    assert None not in pids
    supervisor = installation.children.pop("node")
    supervisor.terminate()
    assert supervisor.wait(60) == 0, installation.said("node")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)
    assert "Traceback" not in installation.said("node")
