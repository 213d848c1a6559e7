"""The server over real HTTP: typed answers, typed errors, no traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3

from forebay.clock import now_ms
from forebay.errors import ConfigError
from forebay.retrieval.client import Client
from forebay.retrieval.course import ClientOptions
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import MSGPACK, ErrorBody, RankRequest, RankResponse, Readiness
from forebay.retrieval.server import create_app, serve, serving


class Door:
    """What `ready` says, for tests to set."""

    state = Readiness(True, lag_ms=12)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def url(node: Any, door: Door) -> Iterator[str]:
    with serving(create_app(node.engine, lambda: door.state, limits=ServerLimits(body_bytes=5000))) as address:
        yield address


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=10) as pool:
        yield pool


def _error(response: urllib3.BaseHTTPResponse) -> tuple[int, str]:
    return response.status, msgspec.json.decode(response.data, type=ErrorBody).error


def test_json_and_msgpack_carry_the_same_answer(url: str, http: urllib3.PoolManager, node: Any) -> None:
    """By content type and accept; without an accept the answer comes as the question did."""
    request = RankRequest("u", ["i1", "i2"], 2)
    expected = node.engine.rank(request)
    plain = http.request("POST", url + "/v1/rank", body=msgspec.json.encode(request))
    packed = http.request(
        "POST", url + "/v1/rank", body=msgspec.msgpack.encode(request), headers={"content-type": MSGPACK}
    )
    crossed = http.request("POST", url + "/v1/rank", body=msgspec.json.encode(request), headers={"accept": MSGPACK})
    assert plain.headers["content-type"] == "application/json"
    assert msgspec.json.decode(plain.data, type=RankResponse) == expected
    assert msgspec.msgpack.decode(packed.data, type=RankResponse) == expected
    assert msgspec.msgpack.decode(crossed.data, type=RankResponse) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"user": 1, "candidates": []}',
        b'{"user": "u"}',
        b'{"user": "u", "candidates": ["i1"], "k": -1}',
        b'{"user": "u", "candidates": ["i1"], "k": 100000}',
        b'{"user": "\xff", "candidates": []}',
        b'{"user": "u", "candidates": [' + b"[" * 4000,
    ],
)
def test_a_bad_body_is_a_400_with_words(url: str, http: urllib3.PoolManager, body: bytes) -> None:
    """Whatever is sent, the caller learns what is wrong with it."""
    response = http.request("POST", url + "/v1/rank", body=body)
    assert _error(response) == (400, "bad_request")
    told = json.loads(response.data)
    assert b"Traceback" not in response.data and told["message"] and told["do"]


def test_a_large_body_is_refused_by_its_length_and_by_its_count(url: str, http: urllib3.PoolManager) -> None:
    """Before it is parsed; also when no length was announced."""
    announced = http.request("POST", url + "/v1/rank", body=b" " * 5001)
    chunked = http.request("POST", url + "/v1/rank", body=iter([b" " * 3000, b" " * 3000]))
    assert _error(announced) == _error(chunked) == (413, "too_large")


def test_another_generation_is_a_404_by_name(url: str, http: urllib3.PoolManager) -> None:
    """And so is a path that is none."""
    body = msgspec.json.encode(RankRequest("u", ["i1"], generation="g9"))
    assert _error(http.request("POST", url + "/v1/rank", body=body)) == (404, "generation_unavailable")
    assert _error(http.request("GET", url + "/v1/entities/user/u?generation=g9")) == (404, "generation_unavailable")
    assert _error(http.request("GET", url + "/v1/entities/thing/u")) == (404, "not_found")
    nothing = http.request("GET", url + "/v2")
    assert _error(nothing) == (404, "not_found") and "/openapi.json" in json.loads(nothing.data)["do"]


def test_a_node_that_is_not_ready_answers_no_lookup(url: str, http: urllib3.PoolManager, door: Door) -> None:
    """Law 5: a replica that lags is not asked; health is another question."""
    assert http.request("GET", url + "/ready").json() == {"ready": True, "lag_ms": 12}
    door.state = Readiness(False, "12 s behind", 12_000)
    ready = http.request("GET", url + "/ready")
    assert (ready.status, ready.json()["reason"]) == (503, "12 s behind")
    body = msgspec.json.encode(RankRequest("u", ["i1"]))
    assert _error(http.request("POST", url + "/v1/rank", body=body)) == (503, "not_ready")
    assert http.request("GET", url + "/health").status == 200


def test_work_that_nobody_waits_for_is_not_begun(url: str, http: urllib3.PoolManager) -> None:
    """A budget that is spent is a 504; one that is no number is the caller's mistake."""
    body = msgspec.json.encode(RankRequest("u", ["i1"]))

    def ask(budget: str) -> urllib3.BaseHTTPResponse:
        return http.request("POST", url + "/v1/rank", body=body, headers={"forebay-deadline-ms": budget})

    assert _error(ask("0")) == (504, "deadline_exceeded")
    assert _error(ask("-1")) == (504, "deadline_exceeded")
    assert _error(ask("nan")) == (504, "deadline_exceeded")
    assert _error(ask("soon")) == (400, "bad_request")
    assert ask("10000").status == 200


def test_a_bug_in_the_server_stays_in_the_server(
    url: str, http: urllib3.PoolManager, node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets a typed 500, the log gets the traceback, and the next request is served."""
    node.engine.fusion, kept = None, node.engine.fusion
    response = http.request("POST", url + "/v1/rank", body=msgspec.json.encode(RankRequest("u", ["i1"])))
    assert _error(response) == (500, "internal")
    assert b"NoneType" not in response.data
    assert "NoneType" in caplog.text
    node.engine.fusion = kept
    assert http.request("POST", url + "/v1/retrieve", body=b'{"user": "u"}').status == 200


def test_requests_are_counted(url: str, http: urllib3.PoolManager) -> None:
    """By path and status, with entity ids left out of the labels."""
    http.request("POST", url + "/v1/rank", body=b"{")
    http.request("GET", url + "/v1/entities/user/secret")
    text = http.request("GET", url + "/metrics").data.decode()
    assert 'forebay_request_seconds_count{path="/v1/rank",status="400"} 1.0' in text
    assert 'forebay_request_seconds_count{path="/v1/entities",status="200"} 1.0' in text
    assert "secret" not in text


def test_metrics_say_how_current_what_was_served_is(
    url: str, http: urllib3.PoolManager, node: Any, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each segment of an answer its age and state; a segment of which nothing is known has no age."""
    body = msgspec.json.encode(RankRequest("u", ["i1", "i2"], 2))
    monkeypatch.setattr("forebay.clock.now_ms", lambda: node.now_ms + 2500)  # as_of of all rows is the node's now
    assert http.request("POST", url + "/v1/rank", body=body).status == 200
    assert http.request("POST", url + "/v1/retrieve", body=b'{"user": "nobody"}').status == 200
    text = http.request("GET", url + "/metrics").data.decode()
    for side, segment in (("user", "recent"), ("user", "taste"), ("item", "content"), ("item", "stats")):
        place = f'segment="{segment}",side="{side}"'
        assert f'forebay_served_total{{{place},state="fresh"}} {2.0 if side == "item" else 1.0}' in text
        assert f"forebay_served_age_seconds_count{{{place}}} {2.0 if side == 'item' else 1.0}" in text
        assert f"forebay_served_age_seconds_sum{{{place}}} {5.0 if side == 'item' else 2.5}" in text
    assert 'forebay_served_total{segment="recent",side="user",state="missing"} 1.0' in text


def test_metrics_say_what_the_node_has(url: str, http: urllib3.PoolManager, node: Any, door: Door) -> None:
    """Its generation, its rows, and whether it is ready; how old the copy is once every partition has said so."""

    def text() -> str:
        return http.request("GET", url + "/metrics").data.decode()

    assert 'forebay_copy_rows{side="item"} 30.0' in text() and 'forebay_copy_rows{side="user"} 1.0' in text()
    assert 'generation="g1"' in text() and f'bundle="{node.engine.bundle_hash}"' in text()
    assert 'forebay_ready{stage="server"} 1.0' in text()
    assert "\nforebay_copy_lag_seconds " not in text()
    door.state = Readiness(False, "12 s behind")
    for side in ("user", "item"):
        for partition in range(4):
            node.copy.advance(side, partition, now_ms() - 60_000)
    assert 'forebay_ready{stage="server"} 0.0' in text()
    assert 60 <= float(text().split("\nforebay_copy_lag_seconds ")[1].split()[0]) < 120


def test_a_taken_port_is_named(node: Any) -> None:
    """No traceback from the depths of an event loop."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            serve(create_app(node.engine, lambda: Readiness(True)), port=port)


def _run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


SMALL = """
import sys, numpy as np
from pathlib import Path
from forebay.retrieval.engine import Engine
from forebay.retrieval.server import create_app
from forebay.segments.fusions.contract import Part, Shape
from forebay.segments.fusions.sums import WeightedSum
from forebay.segments.spec import EncoderSpec, FusionSpec, SegmentSpec
from forebay.store.codec import RowCodec, SlotSpec
from forebay.store.generation import numeric_platform
from forebay.store.servingcopy import ServingCopy
from forebay.store.vectors import VectorStore
specs = {s: (SegmentSpec(s, "a", (), EncoderSpec("mlp"), 4),) for s in ("user", "item")}
codecs = {s: RowCodec(s, (SlotSpec("a", 4, 1),)) for s in specs}
shape, tensors = Shape((Part(0, 0, 4),), (Part(0, 0, 4),), 4, 4, 1), {"weights": np.ones((1, 1)), "bias": np.zeros(1)}
fusions = {u: WeightedSum(FusionSpec(u, "weighted_sum", (), ()), shape, tensors) for u in ("rank", "retrieve")}
class Model:
    hash, segments, defaults = "b", specs.get, lambda side: np.ones(4, np.float32)
Model.fusions = fusions
Model.defaults = staticmethod(Model.defaults)
engine = Engine(Model, ServingCopy(Model, "g", codecs, {"user": 1, "item": 1}))
"""


def test_a_server_has_no_torch_and_no_kafka_in_it() -> None:
    """No encoder can run at request time: after every part was imported and warmed, torch is not in the process."""
    code = (
        SMALL
        + """
engine.warm(); numeric_platform(); create_app(engine, lambda: None)
print([m for m in ("torch", "kafka", "confluent_kafka", "faust") if m in sys.modules])
"""
    )
    assert _run(code) == "[]"


def test_the_client_drags_nothing_in() -> None:
    """It goes into other people's services: no store, no numeric library, no server."""
    heavy = ["torch", "faiss", "rocksdict", "numba", "uvicorn", "numpy", "urllib3", "xxhash", "forebay.store"]
    code = f"import sys; from forebay import AsyncClient, Client; print([m for m in {heavy!r} if m in sys.modules])"
    assert _run(code) == "[]"


def test_a_signal_lets_the_owner_close_its_stores(tmp_path: Path) -> None:
    """SIGTERM ends serving, not the process: what comes after `serve` runs."""
    code = (
        SMALL
        + """
from forebay.retrieval.messages import Readiness
from forebay.retrieval.server import serve
with VectorStore.open(Path(sys.argv[1]), create=True, generation="g", bundle_hash="b"):
    serve(create_app(engine, lambda: print("asked", flush=True) or Readiness(True)), port=int(sys.argv[2]))
print("closed")
"""
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(port)], stdout=subprocess.PIPE, text=True, env=environment
    )
    patient = ClientOptions(retry_burst=90)
    with Client(f"http://127.0.0.1:{port}", timeout_s=60, retries=90, options=patient) as client:
        client.ready()
    child.terminate()
    out, _ = child.communicate(timeout=60)
    assert out.split() == ["asked", "closed"] and child.returncode == 0
