"""Requests that nobody of good will sends: the server lives, and no input is a fault of the server's."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from forebay.cli.benchnode import node_of_benches, resident_mb
from forebay.retrieval.client import Client
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import create_app, serving
from forebay.segments.bundle import Bundle

from .hostile import numbered, request, storm
from .wire import connect

SEEDS = 2
EACH = 120
GROWTH_MB = 64.0
SETTLE_S = 5.0  # for what is read and answered of the last connections
ITEMS = [f"i{n}" for n in range(1_000)]


def _told(connection: socket.socket) -> bytes:
    """All that comes back, until the end or a moment of silence."""
    connection.settimeout(0.05)
    said = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(1 << 16):
            said += data
    return said


@pytest.fixture
def url(node: Any) -> Iterator[str]:
    limits = ServerLimits(header_bytes=4_000, body_bytes=50_000, header_s=0.5, body_s=0.5)
    with serving(create_app(node.engine, lambda: Readiness(True), limits=limits)) as address:
        yield address


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_input_is_a_fault_of_the_server(url: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """In pieces, as a network may bring them: no 500, nothing in the log, and whoever asks in between is served."""
    chance = random.Random(seed)
    with Client(url, timeout_s=30) as client:
        for turn in range(EACH):
            data = request(chance)
            over = b"forebay-deadline-ms" in data
            with connect(url) as connection:
                with contextlib.suppress(ConnectionError):
                    while data:
                        size = chance.choice([1, 7, 100, 1 << 20])
                        connection.sendall(data[:size])
                        data = data[size:] if size > 7 or chance.random() < 0.2 else b""
                if chance.random() < 0.8:
                    for line in _told(connection).split(b"HTTP/1.1 ")[1:]:
                        assert not line.startswith(b"5") or (over and line.startswith(b"504")), (seed, turn, line[:200])
            if turn % 40 == 0:
                assert len(client.rank("u", ["i1", "i2"], 2)) == 2
        assert len(client.rank("u", ["i1", "i2"], 2)) == 2
    assert not caplog.records, caplog.text


@pytest.mark.parametrize(
    "count", [1_000, pytest.param(100_000, marks=pytest.mark.full)], ids=["thousand", "hundred-thousand"]
)
def test_a_server_process_lives_through_a_storm(bundle: Bundle, tmp_path: Path, count: int) -> None:
    """No death, no 5xx by input, nothing in its log, and its memory is back where it was."""
    with node_of_benches(bundle, tmp_path, items=20_000, users=1_000) as node:
        (server,) = node.servers
        with Client(node.url, timeout_s=30) as client:
            for number in range(500):  # what a server at work holds: pools, metrics, what was mapped
                client.rank(f"u{number}", ITEMS, 50)
                client.retrieve(f"u{number}", 50)
            before = resident_mb(server.pid)
            told = storm(node.url, seed=count, count=count)
            assert len(client.rank("u1", ITEMS, 50)) == 50
        assert not told.faults, [(line, numbered(count, number)[:500]) for number, line in told.faults[:3]]
        time.sleep(SETTLE_S)
        grown = resident_mb(server.pid) - before
        print(f"{count:,} requests: {dict(told.statuses)}; memory {before:.0f} MiB and {grown:+.1f}")
        assert server.poll() is None
        assert grown <= GROWTH_MB
        # What was answered to connections that were closed before, too.
        metrics = urllib3.request("GET", f"{node.url}/metrics").data.decode()
        failed = [
            line for line in metrics.splitlines() if re.match(r'forebay_request_seconds_count.*status="50[^4]"', line)
        ]
        assert not failed, failed
        said = (tmp_path / "servers.log").read_text().splitlines()
        assert all("ready at" in line for line in said), said[:20]
    assert sum(told.statuses.values()) >= count
