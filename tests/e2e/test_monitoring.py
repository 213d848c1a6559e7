"""What a running worker and a running server expose is what the dashboard and the alerts ask for; a real Prometheus
takes both."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from forebay.events import Behaviour
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics

from ..deploy.queries import OF_PROMETHEUS, RULES, asked, expressions, recorded
from .conftest import Installation, free_port

pytestmark = pytest.mark.broker
ITEMS = [f"i{n}" for n in range(60)]
# Nothing of the kind has to happen within this minute: their series are declared, and may be empty.
DID_NOT_HAPPEN = {
    "forebay_aborts_total", "forebay_undeclared_total", "forebay_restore_seconds_sum", "forebay_restore_seconds_count",
    "forebay_checkpoint_seconds_sum", "forebay_checkpoint_seconds_count", "forebay_checkpoint_sent_bytes_total",
    "forebay_checkpoint_time_seconds", "forebay_fetched_bytes_total", "forebay_left_memory_total",
    "forebay_standby_lag_records", "forebay_index_recall",
}  # fmt: skip


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def busy(installation: Installation) -> Installation:
    """With events behind it, a record that is refused, and some lookups."""
    now = time.time_ns() // 1_000_000
    with EventPublisher(installation.kafka.bootstrap, topics=Topics(installation.prefix)) as events:
        for n in range(50):
            events.send(Behaviour(f"u{n % 30}", f"i{n}", "rate", 5.0, now + n, None, {"genres": ["Action"]}))
        events.send(Behaviour("u1", "i1", "rate", 5.0, now - 40 * 86_400_000, "late"))
    installation.until(lambda: installation.saw("u1", now))
    for n in range(30):
        installation.client.rank(f"u{n}", ITEMS, k=5)
        installation.client.retrieve(f"u{n}", k=5)
    return installation


def _scraped(installation: Installation) -> dict[str, dict[str, Any]]:
    """All samples by name, and an entry for each name that is declared and has none."""
    found: dict[str, dict[str, Any]] = {}
    for port in (installation.status, installation.port):
        for family in text_string_to_metric_families(_get(f"http://127.0.0.1:{port}/metrics")):
            suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
            for suffix in suffixes:
                found.setdefault(family.name + suffix, {})
            for sample in family.samples:
                found.setdefault(sample.name, {})[json.dumps(sample.labels, sort_keys=True)] = sample.value
    return found


def test_every_metric_of_the_dashboard_and_the_alerts_is_exposed(busy: Installation) -> None:
    """By a worker or by a server, as they run; and where something of its kind has happened, it has series."""
    wanted = {metric for query in expressions().values() for metric, _ in asked(query)} - recorded() - OF_PROMETHEUS
    assert len(wanted) > 30

    def without_series() -> set[str]:
        found = _scraped(busy)
        assert wanted <= set(found), f"nobody exposes {sorted(wanted - set(found))}"
        return {metric for metric in wanted if not found[metric]}

    busy.until(lambda: without_series() <= DID_NOT_HAPPEN)  # what is held is told once a second


def test_a_worker_tells_its_lag_its_steps_and_what_it_holds(busy: Installation) -> None:
    """Caught up, the lag is 0 in every partition; each numbered step of each stage was timed; the entities are those
    that the server has."""

    def caught_up() -> bool:
        lags = _scraped(busy)["forebay_lag_seconds"]
        return len(lags) == 8 and set(lags.values()) == {0.0}  # two sources and two clean logs of two partitions each

    def all_counted() -> bool:
        found, held = _scraped(busy), Counter[str]()
        for place, count in found["forebay_entries"].items():
            held[json.loads(place)["stage"]] += int(count)
        rows = {json.loads(place)["side"]: count for place, count in found["forebay_copy_rows"].items()}
        return held["user"] == 30 and {side: held[side] for side in rows} == rows

    busy.until(caught_up)
    busy.until(all_counted)  # once a second
    found = _scraped(busy)
    steps = {
        (place["stage"], place["number"], place["step"])
        for place in map(json.loads, found["forebay_step_seconds_count"])
    }
    for stage, names in {
        "intake": ("accept", "assemble", "", "transact", "store"),
        "user": (sides := ("read", "fold", "encode", "transact", "store")),
        "item": sides,
    }.items():
        assert {s for s in steps if s[0] == stage} == {(stage, str(n), s) for n, s in enumerate(names, 1) if s}
    assert found["forebay_events_total"]['{"stage": "intake"}'] >= 51
    assert found["forebay_dead_letters_total"] == {'{"reason": "late", "stage": "intake"}': 1.0}
    assert set(found["forebay_pending_pairs"].values()) == {0.0}
    builds = [json.loads(build) for build in found["forebay_build_info"]]
    assert {build["generation"] for build in builds} == {"g1"} and len({build["bundle"] for build in builds}) == 1
    assert json.loads(_get(f"http://127.0.0.1:{busy.status}/health")) == {"status": "ok"}


@pytest.fixture
def watching(busy: Installation, tmp_path: Path) -> Iterator[str]:
    """A Prometheus with the rules as they lie in deploy/, which asks the worker and the server; its URL."""
    config = yaml.safe_load((RULES.parent / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    for scrape, port in zip(config["scrape_configs"], (busy.status, busy.port), strict=True):
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    file, url = tmp_path / "prometheus.yaml", f"127.0.0.1:{free_port()}"
    file.write_text(yaml.safe_dump(config))
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [str(shutil.which("prometheus")), f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}",
             f"--web.listen-address={url}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://{url}/api/v1"
    finally:
        child.terminate()
        child.wait(30)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not here (Debian: prometheus)")
def test_a_real_prometheus_takes_the_rules_and_answers_every_panel(busy: Installation, watching: str) -> None:
    """Every rule is healthy, and nothing fires that should not; every query of the dashboard has an answer, but for
    those about what did not happen."""

    def ask(what: str) -> Any:
        try:
            return json.loads(_get(f"{watching}/{what}"))["data"]
        except OSError:
            return None

    def asked_of(query: str) -> list[Any]:
        found: list[Any] = ask("query?" + urllib.parse.urlencode({"query": query}))["result"]
        return found

    def evaluated() -> bool:
        groups = (ask("rules") or {"groups": []})["groups"]
        return bool(groups) and all(r["lastEvaluation"][:4] != "0001" for g in groups for r in g["rules"])

    busy.until(lambda: evaluated() and len(asked_of('min_over_time(up{job=~"forebay.*"}[1h]) == 1')) == 2)
    for _ in range(3):  # rates want lookups of now
        busy.client.rank("u1", ITEMS, k=5)
        time.sleep(2)
    groups = ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert [rule["name"] for group in groups for rule in group["rules"] if rule.get("alerts")] == []
    for place, query in expressions().items():
        if place.startswith("rule") or {metric for metric, _ in asked(query)} & DID_NOT_HAPPEN:
            asked_of(query)
        else:
            assert asked_of(query) or "annotation" in place, place
