"""Where the time of a lookup goes, as `/metrics` tells it: which lookups are timed, and that their steps are all of
it."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forebay import telemetry
from forebay.retrieval.client import Client
from forebay.retrieval.engine import Engine
from forebay.retrieval.messages import RankRequest, Readiness, RetrieveRequest
from forebay.retrieval.server import create_app, serving
from forebay.retrieval.steps import EVERY, STEPS, Laps, Sampled, untimed
from forebay.store.reading import Reading

ITEMS = ["i1", "i2", "i3"]


def test_the_first_lookup_at_a_path_is_timed_and_each_sixteenth_after_it() -> None:
    """Each path by itself; what is no path of lookups never is."""
    sampled = Sampled(frozenset({"/a", "/b"}))
    timed = [n for n in range(3 * EVERY) if sampled.begin("/a") is not None]
    assert timed == [0, EVERY, 2 * EVERY] and EVERY == 16  # as the metric's words have it
    assert sampled.begin("/b") is not None
    assert sampled.begin("/c") is None


def test_laps_are_between_the_ends_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that comes twice has both times."""
    moments = iter([1.0, 1.5, 1.75, 3.75, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    laps = Laps()
    for step in ("user", "candidates", "score", "candidates"):
        laps(step)
    assert laps.seconds() == {"user": 0.5, "candidates": 0.5, "score": 2.0}


class _Slow:
    """Makes one part of the engine take a moment longer."""

    SECONDS = 0.05

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *given: Any, **more: Any) -> Any:
        time.sleep(self.SECONDS)
        return self._call(*given, **more)


@pytest.mark.parametrize(
    ("part", "use", "step"),
    [
        ("_user", "rank", "user"),
        ("_candidates", "rank", "candidates"),
        ("best", "rank", "score"),
        ("_freshness", "rank", None),
        ("_user", "retrieve", "user"),
        ("_seen", "retrieve", "candidates"),
        ("best", "retrieve", "score"),
    ],
)
def test_a_part_of_the_engine_that_is_slow_is_in_the_time_of_its_step(
    node: Any, monkeypatch: pytest.MonkeyPatch, part: str, use: str, step: str | None
) -> None:
    """And in that of no other. What comes after the scoring has no lap here: the server ends it, behind the bytes."""
    engine = Engine(node.model, node.copy, clock=lambda: node.now_ms / 1000)
    ask: dict[str, Callable[[Callable[[str], None]], object]] = {
        "rank": lambda lap: engine.rank(RankRequest("u", ITEMS, 2), lap),
        "retrieve": lambda lap: engine.retrieve(RetrieveRequest("u", 2), lap),
    }
    ask[use](untimed)  # what is compiled
    if part == "best":
        with node.copy.read("item", np.empty(0, np.int64)) as items:
            kind: type[Reading] = type(items)
        monkeypatch.setattr(kind, "best", _method(kind.best))
    elif part != "_freshness":
        monkeypatch.setattr(engine, part, _Slow(getattr(engine, part)))
    laps = Laps()
    ask[use](laps)
    told = laps.seconds()
    assert set(told) == {"user", "candidates", "score"}
    assert {name for name, seconds in told.items() if seconds >= _Slow.SECONDS} == ({step} if step else set())


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    def slow(self: Any, *given: Any, **more: Any) -> Any:
        time.sleep(_Slow.SECONDS)
        return call(self, *given, **more)

    return slow


def test_the_steps_of_a_timed_lookup_are_told_and_fit_into_its_time(node: Any) -> None:
    """All five, once for each path; a batch and an error are not timed."""
    steps: list[tuple[str, str, float]] = []
    requests: dict[str, list[float]] = {}

    def hook(name: str, details: Any) -> None:
        if name == "lookup_step":
            steps.append((details["path"], details["step"], details["seconds"]))
        elif name == "request":
            requests.setdefault(details["path"], []).append(details["seconds"])

    remove = telemetry.add_hook(hook)
    try:
        with serving(create_app(node.engine, lambda: Readiness(True))) as url, Client(url, timeout_s=20) as client:
            for _ in range(EVERY):
                client.rank("u", ITEMS, 2)
                client.retrieve("u", 2)
            client.explain("u", ITEMS)
            client.batch([RankRequest("u", ITEMS, 2)])
            with urllib.request.urlopen(f"{url}/metrics") as told:
                text = told.read().decode()
    finally:
        remove()
    for path in ("/v1/rank", "/v1/retrieve", "/v1/explain"):
        mine = [(step, seconds) for where, step, seconds in steps if where == path]
        assert tuple(step for step, _ in mine) == STEPS
        assert all(seconds > 0 for _, seconds in mine)
        assert sum(seconds for _, seconds in mine) <= requests[path][0]
        for step in STEPS:
            assert f'forebay_lookup_step_seconds_count{{path="{path}",step="{step}"}} 1.0' in text
    assert {where for where, _, _ in steps} == {"/v1/rank", "/v1/retrieve", "/v1/explain"}


def test_where_users_were_found_is_counted(node: Any) -> None:
    """Once for each lookup of a user. All are in memory here; tests of misses have the others."""
    with serving(create_app(node.engine, lambda: Readiness(True))) as url, Client(url, timeout_s=20) as client:
        client.rank("u", ITEMS, 2)
        client.retrieve("nobody", 2)
        client.batch([RankRequest("u", ITEMS, 2)] * 3)
        client.entity("user", "u")
        client.entity("item", "i1")
        with urllib.request.urlopen(f"{url}/metrics") as told:
            found = dict(re.findall(r'forebay_user_rows_total{place="(\w+)"} (\d+)', told.read().decode()))
    assert found == {"memory": "6", "elsewhere": "0"}
