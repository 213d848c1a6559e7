"""What Prometheus sees of workers: counts of what hooks told, and standings as they are when it scrapes."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from forebay import __version__
from forebay.clock import now_ms
from forebay.exposition import Build
from forebay.store.census import Census
from forebay.streams.worker.metrics import WorkerMetrics
from forebay.streams.worker.source import Source
from forebay.streams.worker.standing import Report, Standing
from forebay.streams.worker.watchdog import Progress
from forebay.telemetry import add_hook, emit


class Worker:
    """One that says what it is told to, of a stage with so many partitions."""

    def __init__(self, report: Report, partitions: int = 3) -> None:
        self.said, self.stage = report, SimpleNamespace(name=report.stage, names=["p"] * partitions)

    def report(self) -> Report:
        return self.said


def _standing(partition: int, **other: object) -> Standing:
    census = Census(90, {"entities": 3}, {"recent": 2, "taste": 0}, {"state": 800})
    standing = Standing(Source("events.user", partition, "t"), Progress(100, 110, -1), 150, 0, 0, census)
    return replace(standing, **other)


def _samples(metrics: WorkerMetrics) -> dict[str, float]:
    text = metrics.exposed("")[0].decode()
    lines = re.findall(r"^(forebay_\S+?(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)
    assert len({name for name, _ in lines}) == len(lines), "a series is there twice"
    return {name: float(value) for name, value in lines}


@pytest.fixture
def user() -> Worker:
    now = now_ms()
    return Worker(
        Report("user", {0: _standing(0, since=now - 5_000, as_of=now - 7_000), 1: _standing(1)}, memory={"other": 5})
    )


def test_how_workers_stand_is_asked_at_each_scrape(user: Worker) -> None:
    """By stage and partition; what is of a whole worker is the sum of its partitions."""
    metrics = WorkerMetrics([user, Worker(Report("item", away_s=12.5, restoring=4, turned_s=1.5))])
    found = _samples(metrics)
    place = 'stage="user",topic="events.user",partition="0"'

    def at(name: str, labels: str) -> float:
        return found[_key(name, labels)]

    assert 5 <= at("forebay_lag_seconds", place) < 60
    assert 7 <= at("forebay_as_of_age_seconds", place) < 60
    assert at("forebay_lag_records", place) == 50
    assert at("forebay_store_lag_records", place) == 20
    assert at("forebay_entries", place + ',of="entities"') == 3
    assert at("forebay_pending_pairs", 'stage="user",segment="recent"') == 4
    assert at("forebay_memory_bytes", 'stage="user",of="state"') == 1600
    assert at("forebay_memory_bytes", 'stage="user",of="other"') == 5
    assert at("forebay_partitions", 'stage="user"') == 2
    assert at("forebay_partitions_expected", 'stage="user"') == at("forebay_partitions_expected", 'stage="item"') == 3
    assert at("forebay_partitions_restoring", 'stage="item"') == 4
    assert at("forebay_broker_away_seconds", 'stage="item"') == 12.5
    assert at("forebay_turned_seconds", 'stage="item"') == 1.5
    assert at("forebay_ready", 'stage="user"') == 0
    user.said = replace(user.said, ready=True, partitions={})
    assert _samples(metrics)[_key("forebay_ready", 'stage="user"')] == 1


def test_what_is_not_known_has_no_series(user: Worker) -> None:
    """Neither a lag before the first commit, nor the age of a claim before the first: a zero would be a lie."""
    found = _samples(WorkerMetrics([user]))
    other = 'stage="user",topic="events.user",partition="1"'
    for name in ("forebay_lag_seconds", "forebay_as_of_age_seconds"):
        assert _key(name, other) not in found
        assert _key(name, other.replace('"1"', '"0"')) in found


def test_counts_begin_at_zero() -> None:
    """So that the first one of its kind is an increase: of the stages that there are, and no others."""
    metrics = WorkerMetrics([Worker(Report("intake")), Worker(Report("item"))])
    metrics("encoded", {"stage": "item", "segment": "stats", "rows": 3})
    found = _samples(metrics)
    for name in ("events_total", "strangers_total", "forgotten_total", "catalogue_left_out_total", "accepted_total"):
        assert found[f'forebay_{name}{{stage="intake"}}'] == 0
    assert found['forebay_held_total{segment="stats",stage="item"}'] == 0
    assert found['forebay_events_total{stage="item"}'] == 0
    assert not any('stage="user"' in name for name in found) and 'forebay_forgotten_total{stage="item"}' not in found


def test_a_partition_that_a_paused_source_stops_is_told_apart(user: Worker) -> None:
    """What waits in it is its lag as before: an alert that asks who gets nowhere leaves it out by this."""
    still = replace(_standing(1), progress=Progress(100, 100, 100, standing=True))
    user.said = replace(user.said, partitions={**user.said.partitions, 1: still})
    found = _samples(WorkerMetrics([user]))
    places = [f'stage="user",topic="events.user",partition="{n}"' for n in range(2)]
    assert [found[_key("forebay_partition_paused", place)] for place in places] == [0, 1]
    assert [found[_key("forebay_lag_records", place)] for place in places] == [50, 50]


def test_what_hooks_tell_is_counted() -> None:
    """Events when they are committed, whatever was applied before."""
    metrics = WorkerMetrics([])
    remove = add_hook(metrics)
    try:
        for number, name in enumerate(("read", "fold", "encode", "transact"), start=1):
            emit("step", number=number, name=name, stage="user", seconds=0.004, events=100)
        emit("accepted", stage="intake", events=90, duplicates=3)
        for reason in ("late", "late", "bad_id"):
            emit("dead_letter", stage="intake", reason=reason)
        emit("encoded", stage="user", segment="recent", rows=7)
        emit("held", side="user", segment="recent", rows=2)
        emit("aborted", stage="user", error="TransactionLost")
        emit("restored", stage="user", partition=3, events=1000, seconds=0.7)
        emit("checkpoint", stage="user", partition=3, offset=9, bytes=1000, new_bytes=400, seconds=2.5)
        emit("checkpoint_failed", stage="user", partition=3)
        emit("fetched", stage="item", partition=3, bytes=5000, seconds=1.5)
        emit("left_memory", stage="user", partition=3, rows=12)
        emit("stranger", stage="user", partition=3)
        emit("undeclared", stage="user", kind="action", name='od"d\n', events=4)
        emit("forgotten", stage="intake", partition=0, since=5)
        emit("catalogue_full", stage="intake", items=6, memory=7)
        emit("request", path="/v1/rank", status=200, seconds=0.1)  # a lookup server's
    finally:
        remove()
    found = _samples(metrics)
    expected = {
        'forebay_events_total{stage="user"}': 100, 'forebay_accepted_total{stage="intake"}': 90,
        'forebay_duplicates_total{stage="intake"}': 3, 'forebay_encoded_total{segment="recent",stage="user"}': 7,
        'forebay_dead_letters_total{reason="late",stage="intake"}': 2,
        'forebay_dead_letters_total{reason="bad_id",stage="intake"}': 1,
        'forebay_held_total{segment="recent",stage="user"}': 2,
        'forebay_aborts_total{error="TransactionLost",stage="user"}': 1,
        'forebay_restored_events_total{stage="user"}': 1000, 'forebay_restore_seconds_sum{stage="user"}': 0.7,
        'forebay_checkpoint_seconds_sum{stage="user"}': 2.5, 'forebay_checkpoint_sent_bytes_total{stage="user"}': 400,
        'forebay_checkpoint_failures_total{stage="user"}': 1, 'forebay_fetched_bytes_total{stage="item"}': 5000,
        'forebay_left_memory_total{stage="user"}': 12,
        'forebay_strangers_total{stage="user"}': 1, 'forebay_forgotten_total{stage="intake"}': 1,
        r'forebay_undeclared_total{kind="action",name="od\"d\n",stage="user"}': 4,
        'forebay_catalogue_left_out_total{stage="intake"}': 6,
        'forebay_step_seconds_count{number="4",stage="user",step="transact"}': 1,
        'forebay_step_seconds_sum{number="2",stage="user",step="fold"}': 0.004,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert abs(found['forebay_checkpoint_time_seconds{partition="3",stage="user"}'] - now_ms() / 1000) < 60


def test_the_build_is_one_series() -> None:
    metrics = WorkerMetrics([], Build("g7", "b" * 64, "x86_64; numpy 2"))
    (line,) = [name for name in _samples(metrics) if name.startswith("forebay_build_info")]
    assert all(f'"{value}"' in line for value in (__version__, "g7", "b" * 64, "x86_64; numpy 2"))


def test_openmetrics_is_for_who_asks_for_it(user: Worker) -> None:
    """As Prometheus does; both formats say what they are."""
    plain, plain_type = WorkerMetrics([user]).exposed("text/plain")
    opened, opened_type = WorkerMetrics([user]).exposed("application/openmetrics-text; version=1.0.0")
    assert plain_type.startswith("text/plain") and opened_type.startswith("application/openmetrics-text")
    assert opened.endswith(b"# EOF\n") and b"# EOF" not in plain


def test_scrapes_and_hooks_of_several_threads_are_in_nobody_s_way(user: Worker) -> None:
    """Three workers' threads and the commits' tell while requests ask."""
    metrics, errors = WorkerMetrics([user]), list[BaseException]()

    def tell() -> None:
        for n in range(500):
            metrics("step", {"number": n % 5 + 1, "name": f"s{n % 5}", "stage": "user", "seconds": 0.1, "events": 1})

    def ask() -> None:
        try:
            for _ in range(20):
                _samples(metrics)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (tell, tell, ask, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert _samples(metrics)['forebay_events_total{stage="user"}'] == 200


def _key(name: str, labels: str) -> str:
    """As the client writes them: in order of the labels' names where a collector gives them, too."""
    return f"{name}{{{','.join(sorted(labels.split(',')))}}}"
