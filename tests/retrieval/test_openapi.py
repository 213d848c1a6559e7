"""The document that describes the server, held against its structs, its routes and its answers; and the examples."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
import urllib3

from forebay.retrieval import messages
from forebay.retrieval.app import App
from forebay.retrieval.messages import (
    BatchRequest,
    BatchResponse,
    ExplainRequest,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
)
from forebay.retrieval.server import create_app, serving

from .callers import nobody

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lookups.md"


@pytest.fixture
def app(node: Any) -> App:
    return create_app(node.engine, lambda: Readiness(True))


@pytest.fixture
def url(app: App) -> Iterator[str]:
    with serving(app) as address:
        yield address


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        yield pool


@pytest.fixture
def document(url: str, http: urllib3.PoolManager) -> Any:
    return http.request("GET", url + "/openapi.json").json()


def test_every_route_is_described_and_nothing_else(document: Any, app: App) -> None:
    """By path and method."""
    routes = {(route.path, route.method.lower()) for route in (*app._routes.values(), app._entities)}
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == routes


def test_every_schema_is_its_struct(document: Any) -> None:
    """Each field, and which of them are needed; every reference leads somewhere."""
    schemas = document["components"]["schemas"]
    assert len(schemas) > 8
    for name, schema in schemas.items():
        fields = msgspec.structs.fields(getattr(messages, name))
        assert set(schema["properties"]) == {field.name for field in fields}
        assert set(schema["required"]) == {field.name for field in fields if field.required}
        assert schema["description"]
    names = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert names <= set(schemas) and {"RankRequest", "ErrorBody", "SegmentFreshness"} <= names


def test_what_is_answered_is_what_is_described(document: Any, url: str, http: urllib3.PoolManager) -> None:
    """The status and the fields of each kind of answer."""

    def described(method: str, path: str, target: str, body: bytes | None = None) -> None:
        response = http.request(method, url + target, body=body)
        answer = document["paths"][path][method.lower()]["responses"][str(response.status)]
        reference = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][reference]
        assert set(schema["required"]) <= set(response.json()) <= set(schema["properties"])

    described("POST", "/v1/rank", "/v1/rank", b'{"user":"u","candidates":["i1"]}')
    described("POST", "/v1/rank", "/v1/rank", b"{")
    described("POST", "/v1/retrieve", "/v1/retrieve", b'{"user":"u"}')
    described("POST", "/v1/explain", "/v1/explain", b'{"user":"u","items":["i1"]}')
    described("POST", "/v1/batch", "/v1/batch", b'{"requests":[]}')
    described("GET", "/v1/entities/{side}/{id}", "/v1/entities/user/u?vectors=true")
    described("GET", "/v1/entities/{side}/{id}", "/v1/entities/user/u?generation=g9")
    described("GET", "/ready", "/ready")


def test_an_explanation_is_the_ranking_with_its_shares(url: str, http: urllib3.PoolManager, node: Any) -> None:
    """Of all the items that were named."""
    body = msgspec.json.encode(ExplainRequest("u", ["i1", "i2", "i3"]))
    answer = msgspec.json.decode(http.request("POST", url + "/v1/explain", body=body).data, type=RankResponse)
    assert answer == node.engine.rank(RankRequest("u", ["i1", "i2", "i3"], 3, explain=True))
    assert all(hit.shares for hit in answer.hits) and len(answer.hits) == 3


def test_a_batch_is_its_requests_one_by_one(url: str, http: urllib3.PoolManager, node: Any) -> None:
    """In their order; one that cannot be answered has its error, and the others their answers."""
    good, other, bad = RankRequest("u", ["i1", "i2"], 2), RankRequest("x", ["i3"]), RankRequest("u", ["i1"], 10**6)
    elsewhere = RankRequest("u", ["i1"], generation="g9")
    body = msgspec.json.encode(BatchRequest([good, bad, other, elsewhere]))
    answer = msgspec.json.decode(http.request("POST", url + "/v1/batch", body=body).data, type=BatchResponse)
    assert [entry.answer for entry in answer.entries] == [node.engine.rank(good), None, node.engine.rank(other), None]
    errors = [entry.error.error if entry.error else None for entry in answer.entries]
    assert errors == [None, "bad_request", None, "generation_unavailable"]
    many = msgspec.json.encode(BatchRequest([other] * 65))
    response = http.request("POST", url + "/v1/batch", body=many)
    assert response.status == 400 and "at most 64" in response.json()["do"]


def _example(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def _printed(command: list[str], *, within_s: float = 120, **environment: str) -> str:
    environment = {**os.environ, **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=within_s, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_example_for_curl_runs(url: str, node: Any) -> None:
    """As the page has it, against another address."""
    command = _example("console").removeprefix("$ ").replace("localhost:8080", url.removeprefix("http://"))
    answer = msgspec.json.decode(_printed(["bash", "-c", command]), type=RankResponse)
    assert [hit.item for hit in answer.hits] == [hit.item for hit in node.engine.rank(RankRequest("u42", ["i7", "i8"]))]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_example_for_node_runs(url: str, node: Any) -> None:
    """As the page has it, by the address in its variable."""
    printed = _printed(["node", "--input-type=module", "-e", _example("javascript")], FOREBAY_URL=url)
    expected = node.engine.rank(RankRequest("u42", ["i7", "i8"])).hits
    assert [line.split()[0] for line in printed.splitlines()] == [hit.item for hit in expected]


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_the_example_for_go_runs(url: str, node: Any, tmp_path: Path) -> None:
    """As the page has it, with Go's standard library and without a network; a refusal has the server's words."""
    (tmp_path / "main.go").write_text(_example("go"))
    build = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    # Where nobody has built Go's net/http before, it is built now: minutes on two busy cores.
    _printed(["go", "build", "-o", str(tmp_path / "lookup"), str(tmp_path / "main.go")], within_s=600, **build)
    printed = _printed([str(tmp_path / "lookup")], FOREBAY_URL=url)
    expected = node.engine.rank(RankRequest("u42", ["i7", "i8"])).hits
    assert [line.split()[0] for line in printed.splitlines()] == [hit.item for hit in expected]
    environment = {**os.environ, "FOREBAY_URL": url + "/nothing"}
    refused = subprocess.run(
        [str(tmp_path / "lookup")], check=False, capture_output=True, text=True, timeout=60, env=environment
    )
    assert refused.returncode == 1 and "not_found: nothing at POST /nothing/v1/rank" in refused.stderr


def test_the_example_of_a_service_runs(url: str, node: Any, tmp_path: Path) -> None:
    """It shows what the server ranks; and what everybody likes where no server is."""
    (block,) = [block for block in _blocks("python") if "async def app" in block]
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    (tmp_path / "service.py").write_text(block)
    found = [hit.item for hit in node.engine.retrieve(RetrieveRequest("u", 200))]
    ranked = [hit.item for hit in node.engine.rank(RankRequest("u", found, 20))]
    for servers, expected in (url, ranked), (nobody(), ["i1", "i2", "i3"]), (f"{nobody()},{url}", ranked):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "error"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FOREBAY_URL": servers}
        child = subprocess.Popen(command, cwd=tmp_path, env=environment)
        try:  # a busy machine may take more than the example's 50 ms: it is asked until a lookup was in time
            seen, end = None, time.monotonic() + 60
            while seen != expected and time.monotonic() < end:
                with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/home/u", timeout=10) as response:
                    seen = json.load(response)["items"]
            assert seen == expected
        finally:
            child.terminate()
            child.wait(30)
