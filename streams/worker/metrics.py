"""Prometheus's view of a process's workers: what hooks tell is counted as it happens, and how the workers stand
(gauges.py) is asked when somebody scrapes.

Labels are few by construction: stages, segments, partitions, and names that their tellers bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from forebay.clock import now_ms
from forebay.exposition import Build, exposed, registry_of
from forebay.streams.worker.gauges import Reporting, Standings
from forebay.telemetry import Detail

# A batch's step takes 0.1 ms to some 100 ms; a commit waits for a broker, whose bad days take seconds.
_STEP_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RESTORE_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)


class WorkerMetrics:
    """A hook (`add_hook(metrics)`) and a scrape of `workers`, which may run on any thread."""

    def __init__(self, workers: Sequence[Reporting], build: Build = Build()) -> None:
        self._registry = registry = registry_of(build)
        self._steps = Histogram(
            "forebay_step_seconds",
            "Time of a numbered step of one batch: 1 to 3 the stage's own, 4 the commit, 5 writing the stores",
            ["stage", "number", "step"],
            registry=registry,
            buckets=_STEP_S,
        )
        self._events = Counter(
            "forebay_events_total",
            "Events in what was committed; of the Intake raw records, refused ones and duplicates included",
            ["stage"],
            registry=registry,
        )
        self._accepted = Counter(
            "forebay_accepted_total",
            "Committed events that the Intake accepted",
            ["stage"],
            registry=registry,
        )
        self._duplicates = Counter(
            "forebay_duplicates_total",
            "Committed events that the Intake had accepted before",
            ["stage"],
            registry=registry,
        )
        self._letters = Counter(
            "forebay_dead_letters_total",
            "Committed records that the Intake refused",
            ["stage", "reason"],
            registry=registry,
        )
        self._encoded = Counter(
            "forebay_encoded_total",
            "Vectors made: pairs of an entity and a segment",
            ["stage", "segment"],
            registry=registry,
        )
        self._held = Counter(
            "forebay_held_total",
            "Vectors that were not finite: the last good one stays",
            ["stage", "segment"],
            registry=registry,
        )
        self._aborts = Counter(
            "forebay_aborts_total",
            "Commits that failed, by error: their batches are done again",
            ["stage", "error"],
            registry=registry,
        )
        self._restores = Histogram(
            "forebay_restore_seconds",
            "Time to fold again, silently, what a partition's store lacked",
            ["stage"],
            registry=registry,
            buckets=_RESTORE_S,
        )
        self._restored = Counter(
            "forebay_restored_events_total", "Events that were folded again silently", ["stage"], registry=registry
        )
        self._checkpoints = Histogram(
            "forebay_checkpoint_seconds",
            "Time to make a checkpoint of a partition, beside the worker's loop",
            ["stage"],
            registry=registry,
            buckets=_RESTORE_S,
        )
        self._made_at = Gauge(
            "forebay_checkpoint_time_seconds",
            "When this process made the newest checkpoint of a partition (s since 1970), by the worker's number of it",
            ["stage", "partition"],
            registry=registry,
        )
        self._sent = Counter(
            "forebay_checkpoint_sent_bytes_total", "Bytes of checkpoints that travelled", ["stage"], registry=registry
        )
        self._unmade = Counter(
            "forebay_checkpoint_failures_total",
            "Checkpoints that could not be made: each is tried again",
            ["stage"],
            registry=registry,
        )
        self._fetched = Counter(
            "forebay_fetched_bytes_total",
            "Bytes of partitions whose state came from a checkpoint",
            ["stage"],
            registry=registry,
        )
        self._warm = Counter(
            "forebay_standby_used_total",
            "Partitions that were taken over with a state that this worker had kept warm",
            ["stage"],
            registry=registry,
        )
        self._left = Counter(
            "forebay_left_memory_total", "Rows of idle entities that left memory", ["stage"], registry=registry
        )
        self._strangers = Counter(
            "forebay_strangers_total",
            "Records of somebody else in topics that are the Intake's alone",
            ["stage"],
            registry=registry,
        )
        self._undeclared = Counter(
            "forebay_undeclared_total",
            "Events with an action or an attribute that the spec does not declare; the first 100 names are told apart",
            ["stage", "kind", "name"],
            registry=registry,
        )
        self._forgotten = Counter(
            "forebay_forgotten_total",
            "Times that identities were forgotten for want of memory: older events are late since",
            ["stage"],
            registry=registry,
        )
        self._left_out = Counter(
            "forebay_catalogue_left_out_total",
            "Item updates that the catalogue had no memory for",
            ["stage"],
            registry=registry,
        )
        self._told: dict[str, Callable[[Mapping[str, Detail]], None]] = {
            "step": self._step,
            "accepted": self._accept,
            "dead_letter": lambda d: self._letters.labels(d["stage"], d["reason"]).inc(),
            "encoded": self._encode,
            "held": lambda d: self._held.labels(d["side"], d["segment"]).inc(float(d["rows"])),
            "aborted": lambda d: self._aborts.labels(d["stage"], d["error"]).inc(),
            "restored": self._restore,
            "checkpoint": self._checkpoint,
            "checkpoint_failed": lambda d: self._unmade.labels(d["stage"]).inc(),
            "fetched": lambda d: self._fetched.labels(d["stage"]).inc(float(d["bytes"])),
            "standby_used": lambda d: self._warm.labels(d["stage"]).inc(),
            "left_memory": lambda d: self._left.labels(d["stage"]).inc(float(d["rows"])),
            "stranger": lambda d: self._strangers.labels(d["stage"]).inc(),
            "undeclared": lambda d: self._undeclared.labels(d["stage"], d["kind"], d["name"]).inc(float(d["events"])),
            "forgotten": lambda d: self._forgotten.labels(d["stage"]).inc(),
            "catalogue_full": lambda d: self._left_out.labels(d["stage"]).inc(float(d["items"])),
        }
        self._begin({worker.report().stage for worker in workers})
        registry.register(Standings(workers))

    def __call__(self, name: str, details: Mapping[str, Detail]) -> None:
        if (told := self._told.get(name)) is not None:
            told(details)

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """All of it as the request header `accept` wants it, and the content type."""
        return exposed(self._registry, accept)

    def _begin(self, stages: Collection[str]) -> None:
        """What is counted begins at 0: an alert on an increase does not see a series that begins at 1."""
        for stage in stages:
            for counter in (self._events, self._strangers, self._restored, self._unmade, self._warm):
                counter.labels(stage)
            if stage == "intake":
                for counter in (self._accepted, self._duplicates, self._forgotten, self._left_out):
                    counter.labels(stage)

    def _encode(self, details: Mapping[str, Detail]) -> None:
        place = details["stage"], details["segment"]
        self._encoded.labels(*place).inc(float(details["rows"]))
        self._held.labels(*place)  # from 0 on

    def _step(self, details: Mapping[str, Detail]) -> None:
        stage, number = details["stage"], details["number"]
        self._steps.labels(stage, number, details["name"]).observe(float(details["seconds"]))
        if number == 4:  # what is committed counts, and each event is committed once
            self._events.labels(stage).inc(float(details["events"]))

    def _accept(self, details: Mapping[str, Detail]) -> None:
        self._accepted.labels(details["stage"]).inc(float(details["events"]))
        self._duplicates.labels(details["stage"]).inc(float(details["duplicates"]))

    def _checkpoint(self, details: Mapping[str, Detail]) -> None:
        self._checkpoints.labels(details["stage"]).observe(float(details["seconds"]))
        self._sent.labels(details["stage"]).inc(float(details["new_bytes"]))
        self._made_at.labels(details["stage"], details["partition"]).set(now_ms() / 1000)

    def _restore(self, details: Mapping[str, Detail]) -> None:
        self._restores.labels(details["stage"]).observe(float(details["seconds"]))
        self._restored.labels(details["stage"]).inc(float(details["events"]))
