"""How the workers of a process stand, for Prometheus: gauges that are asked at each scrape."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from forebay.clock import now_ms
from forebay.streams.worker.standing import Report, Standing


class Named(Protocol):
    """A stage: its name, and one name for each partition of its topics."""

    @property
    def name(self) -> str: ...

    @property
    def names(self) -> Sequence[str]: ...


class Reporting(Protocol):
    """A worker that says how it stands, from any thread."""

    @property
    def stage(self) -> Named: ...

    def report(self) -> Report: ...


class Standings(Collector):
    """Asks every worker at each scrape."""

    def __init__(self, workers: Sequence[Reporting]) -> None:
        self._workers = workers

    def describe(self) -> list[Metric]:
        """Nothing is asked when it is registered: a worker may not have begun."""
        return []

    def collect(self) -> Iterator[Metric]:
        reports, now = [worker.report() for worker in self._workers], now_ms()
        yield from _of_workers(reports)
        yield _of_stages(self._workers)
        yield from _of_partitions(reports, now)
        yield from _of_contents(reports)
        yield from _of_standbys(reports, now)


def _of_workers(reports: Sequence[Report]) -> Iterator[Metric]:
    ready = GaugeMetricFamily("forebay_ready", "Whether it does its work: 1, or 0", labels=["stage"])
    owned = GaugeMetricFamily("forebay_partitions", "Partitions that this worker owns and has opened", labels=["stage"])
    restoring = GaugeMetricFamily(
        "forebay_partitions_restoring",
        "Partitions that stand still until their stores are open and up to date",
        labels=["stage"],
    )
    away = GaugeMetricFamily(
        "forebay_broker_away_seconds",
        "For how long no work could be committed for want of a broker; 0 while it answers",
        labels=["stage"],
    )
    turned = GaugeMetricFamily(
        "forebay_turned_seconds",
        "Since when the worker's loop stands still: below a second, and some seconds in a large batch",
        labels=["stage"],
    )
    for report in reports:
        ready.add_metric([report.stage], float(report.ready))
        owned.add_metric([report.stage], len(report.partitions))
        restoring.add_metric([report.stage], report.restoring)
        away.add_metric([report.stage], report.away_s)
        turned.add_metric([report.stage], report.turned_s)
    yield from (ready, owned, restoring, away, turned)


def _of_stages(workers: Sequence[Reporting]) -> Metric:
    expected = GaugeMetricFamily(
        "forebay_partitions_expected",
        "Partitions of the stage's topics when this worker started: its group owns them all, or some are not read",
        labels=["stage"],
    )
    for worker in workers:
        expected.add_metric([worker.stage.name], len(worker.stage.names))
    return expected


def _of_partitions(reports: Sequence[Report], now: int) -> Iterator[Metric]:
    seconds = GaugeMetricFamily(
        "forebay_lag_seconds",
        "How old the oldest record is that is not committed, by the log's append times; 0 when there is none",
        labels=["stage", "topic", "partition"],
    )
    records = GaugeMetricFamily(
        "forebay_lag_records",
        "Records that are readable and not committed; their end is asked every 10 s",
        labels=["stage", "topic", "partition"],
    )
    paused = GaugeMetricFamily(
        "forebay_partition_paused",
        "Whether the partition stands still because its source is paused: 1, or 0",
        labels=["stage", "topic", "partition"],
    )
    store = GaugeMetricFamily(
        "forebay_store_lag_records",
        "Offsets that are applied and not in the partition's store yet",
        labels=["stage", "topic", "partition"],
    )
    age = GaugeMetricFamily(
        "forebay_as_of_age_seconds",
        "Age of the moment up to which all that the sources took is applied",
        labels=["stage", "topic", "partition"],
    )
    for report, one in _standings(reports):
        place = [report.stage, one.source.topic, str(one.source.partition)]
        if (lag_s := one.lag_s(now)) is not None:
            seconds.add_metric(place, lag_s)
        records.add_metric(place, one.waiting)
        paused.add_metric(place, float(one.progress.standing))
        if one.census is not None:
            store.add_metric(place, max(0, one.progress.applied - one.census.stored))
        if one.as_of:
            age.add_metric(place, (now - one.as_of) / 1000)
    yield from (seconds, records, paused, store, age)


def _of_contents(reports: Sequence[Report]) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "forebay_entries",
        "What a partition has in memory, by what it is: entities, or identities of accepted events",
        labels=["stage", "topic", "partition", "of"],
    )
    pending = GaugeMetricFamily(
        "forebay_pending_pairs",
        "Pairs of an entity and a segment that wait to be encoded: in a restore, and where encoders do not keep up",
        labels=["stage", "segment"],
    )
    memory = GaugeMetricFamily(
        "forebay_memory_bytes",
        "Memory of a worker's tables, by what they are of",
        labels=["stage", "of"],
    )
    pairs, sizes = Counts[tuple[str, str]](), Counts[tuple[str, str]]()
    for report in reports:
        sizes.update({(report.stage, of): size for of, size in report.memory.items()})
    for report, one in _standings(reports):
        if (census := one.census) is None:
            continue
        for of, count in census.held.items():
            held.add_metric([report.stage, one.source.topic, str(one.source.partition), of], count)
        pairs.update({(report.stage, segment): count for segment, count in census.pending.items()})
        sizes.update({(report.stage, of): size for of, size in census.memory.items()})
    for labels, count in pairs.items():
        pending.add_metric(labels, count)
    for labels, size in sizes.items():
        memory.add_metric(labels, size)
    yield from (held, pending, memory)


def _of_standbys(reports: Sequence[Report], now: int) -> Iterator[Metric]:
    behind = GaugeMetricFamily(
        "forebay_standby_lag_records",
        "Offsets that the group has and the warm state of a partition lacks, which another worker owns",
        labels=["stage", "topic", "partition"],
    )
    age = GaugeMetricFamily(
        "forebay_standby_age_seconds",
        "Since when a warm state may lag the group; of an Intake's, the age of the checkpoint that was fetched",
        labels=["stage", "topic", "partition"],
    )
    for report in reports:
        for warm in report.warm.values():
            place = [report.stage, warm.source.topic, str(warm.source.partition)]
            behind.add_metric(place, warm.behind)
            age.add_metric(place, max(0, now - warm.at_ms) / 1000)
    yield from (behind, age)


def _standings(reports: Sequence[Report]) -> Iterator[tuple[Report, Standing]]:
    return ((report, standing) for report in reports for standing in report.partitions.values())
