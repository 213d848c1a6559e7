"""`forebay doctor`: one line for each check, with the remedy of what is wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from forebay.cli.asking import client as asking
from forebay.cli.cluster import cluster
from forebay.cli.console import out, print_json, seconds
from forebay.cli.sources import outcome_of
from forebay.config import Settings, SourceTable
from forebay.errors import BlockError, BrokerUnavailable, ForebayError
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import HEADER, ITEM_UPDATE
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.segments.spec.toml import duration_ms
from forebay.store.checkpoints import Checkpoints
from forebay.store.codec import HEARTBEAT_KEY, unpack_heartbeat
from forebay.store.faissbuild import about, one_installed
from forebay.store.generation import Generation, numeric_platform
from forebay.streams import deadletters, tail
from forebay.streams.cluster import Cluster
from forebay.streams.connection import connected, kafka_python
from forebay.streams.installation import topics_of
from forebay.streams.intake.note import Note
from forebay.streams.sources.foreign import Foreign
from forebay.streams.topics import TopicInfo, describe
from forebay.streams.transports.librdkafka.notes import Notes
from forebay.streams.worker.undeclared import Counts, Undeclared

LAG_BOUND_S = 10.0
LOSES_MARKERS = "4.3"  # brokers tell no third number
DISK_FLOOR_BYTES = 2 << 30
CLOCK_BOUND_S = 2.0
SAMPLE, SAMPLE_S = 200, 5.0  # the newest Blocks of a clean log that are looked at, and for how long
TOLD = 8  # names in one line


@dataclass(frozen=True)
class Check:
    """One line: `ok`, what was found, and what to do where it is not."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def doctor(settings: Settings, as_json: bool) -> int:
    """Run every check; one that cannot run is one that failed. Returns 0 when all is well, else 1."""
    checks = list(_Doctor(settings).checks())
    if as_json:
        print_json([asdict(c) for c in checks])
    else:
        for check in checks:
            mark = "[green]ok[/]  " if check.ok else "[bold red]bad[/] "
            out.print(f"{mark} {check.name:<18}", end="")
            out.print(check.found, markup=False)
            if check.remedy and not check.ok:
                out.print(f"     {'':<18}{check.remedy}", markup=False)
    return 0 if all(c.ok for c in checks) else 1


class _Doctor:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.topics = settings, topics_of(settings)
        self._newest_mark_s = 0.0  # append time of the newest heartbeat read

    def checks(self) -> Iterator[Check]:
        parts: list[tuple[str, Callable[[], Check]]] = [
            ("broker", self._broker),
            ("topics", self._topics),
            ("generation", self._generation),
            ("sources", self._sources),
            ("intake", self._intake),
            *((f"source {table}", lambda table=table: self._source(table)) for table in self.settings.source),
            *((f"{side} worker lag", lambda side=side: self._lag(side)) for side in SIDES),  # type: ignore[misc]
            ("dead letters", self._dead_letters),
            ("undeclared", self._undeclared),
            ("lookup server", self._server),
            ("clock", self._clock),
            ("checkpoints", self._checkpoints),
            ("disk", self._disk),
            ("faiss", self._faiss),
        ]
        for name, run in parts:
            try:
                yield run()
            except ForebayError as error:
                yield Check(name, False, error.what + (f" ({error.where})" if error.where else ""), error.do)
                if name == "broker":
                    return  # everything else would say the same

    @cached_property
    def _cluster(self) -> Cluster:
        return cluster(self.settings)

    @cached_property
    def _infos(self) -> dict[str, TopicInfo]:
        topics = self.topics
        names = [*topics.own_sources, *(topics.events(s) for s in SIDES), topics.catalogue, topics.dead_letters]
        return describe(self._cluster, [*names, *(topics.vectors(self.settings.generation, s) for s in SIDES)])

    @cached_property
    def _manifest(self) -> Generation:
        return Generation.load(self.settings.generation_dir, name=self.settings.generation)

    @cached_property
    def _bundle(self) -> Bundle:
        return Bundle.load(self.settings.bundles / self._manifest.bundle_hash[:12])

    def _broker(self) -> Check:
        admin = connected("KafkaAdminClient", self._cluster)
        try:
            version = _version(admin)
        finally:
            admin.close()
        found = f"Kafka {version or 'of some version'} answers at {self.settings.bootstrap}"
        if version == LOSES_MARKERS:
            found += "; 4.3.0 and 4.3.1 lose the end of a transaction whose partition has no leader: use 4.2"
        return Check("broker", True, found)

    def _topics(self) -> Check:
        for side in SIDES:
            events, vectors = (
                self._infos[self.topics.events(side)],
                self._infos[self.topics.vectors(self.settings.generation, side)],
            )
            if events.partitions != vectors.partitions:
                found = f"{events.name} has {events.partitions} partitions, {vectors.name} {vectors.partitions}"
                return Check("topics", False, found, "Build a new generation: the two must be partitioned alike")
        for name in self.topics.own_sources:
            if (kind := self._infos[name].timestamp_type) != "LogAppendTime":
                return Check("topics", False, f"{name} has {kind}", "Set message.timestamp.type=LogAppendTime")
        return Check("topics", True, f"{len(self._infos)} with the right settings")

    def _generation(self) -> Check:
        generation, bundle = self._manifest, self._bundle
        here = numeric_platform()
        if generation.platform != here:
            found = f"built on {generation.platform}; here {here}"
            return Check(
                "generation", False, found, "Vectors encoded here differ in their last bits: build it on this platform"
            )
        found = f"{generation.name}, bundle {bundle.name}, its hash is right"
        for title, ms in sorted(generation.since.items()):
            moment = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="minutes")
            found += f"; {title} has the events since {moment}"
        return Check("generation", True, found)

    def _source(self, table: SourceTable) -> Check:
        """A topic that others fill: whether its newest records are events."""
        one = Foreign.of(table)
        ok, found = outcome_of(self.settings, one)
        return Check(f"source {one.topic}", ok, found, f"Run: forebay source check {one.topic}")

    @cached_property
    def _notes(self) -> dict[str, Note | None]:
        """What is beside the Intake's offsets, by source partition."""
        asked = Notes(self._cluster, self.topics)
        try:
            return asked.read()
        except KafkaException as error:
            raise BrokerUnavailable(f"no answer: {error.args[0].str()}", do="Is the broker up?") from None
        finally:
            asked.close()

    def _sources(self) -> Check:
        """Whether the Intake reads all of them."""
        paused: dict[str, int] = {}
        for name, note in self._notes.items():
            if note is not None and note.paused:
                topic = name.rpartition("/")[0]
                paused[topic] = min(note.paused, paused.get(topic, note.paused))
        if not paused:
            return Check("sources", True, f"{len(self.topics.sources)}, none stands still")
        now = time.time_ns() // 1_000_000
        found = ", ".join(f"{topic} is paused for {seconds(since, now)}" for topic, since in paused.items())
        return Check(
            "sources", False, f"{found}: too many of its records are no events",
            "Read: forebay deadletters list. Mend the producer, or: forebay source resume TOPIC --status host:port",
        )  # fmt: skip

    def _intake(self) -> Check:
        """How far the sources are in the clean log, and what the Intake remembers, by the notes beside its offsets."""
        notes = self._notes
        known = [note for note in notes.values() if note is not None]
        if len(known) < len(notes):
            unread = [name for name, note in notes.items() if note is None]
            return Check("intake", False, f"never read {', '.join(unread[:TOLD])}", "Start one: forebay work")
        lag = time.time() - min(note.as_of for note in known) / 1000
        memory = sum(note.memory for note in known) / (1 << 20)
        found = f"{lag:.1f} s behind {len(notes)} source partitions, ids of accepted events take {memory:,.0f} MB"
        found += f", the catalogue of items {max(note.catalogue for note in known) / (1 << 20):,.0f} MB in each process"
        since = max(note.since for note in known)
        bound = duration_ms(self.settings.late_after, "late_after") / 1000
        held = time.time() - since / 1000
        if since and held < bound:
            found += f" and reach back {held / 3600:.1f} h only: older events are late"
            return Check("intake", False, found, "Raise intake_memory_mb, or lower late_after")
        return Check("intake", lag <= LAG_BOUND_S, found, "Is it running? forebay work --only intake")

    def _lag(self, side: Side) -> Check:
        """Seconds since the oldest watermark: what the heartbeats on the vectors topic say, not a count of records."""
        name = f"{side} worker lag"
        info = self._infos[self.topics.vectors(self.settings.generation, side)]
        marks = dict.fromkeys(range(info.partitions), 0)
        for message in tail.read(self._cluster, info.name, dict.fromkeys(marks, 0)):
            self._newest_mark_s = max(self._newest_mark_s, message.timestamp()[1] / 1000)
            if message.key() == HEARTBEAT_KEY:
                marks[message.partition()] = max(marks[message.partition()], unpack_heartbeat(message.value() or b""))
        lag = time.time() - min(marks.values()) / 1000
        found = f"{lag:.1f} s" if min(marks.values()) else "never ran"
        return Check(name, lag <= LAG_BOUND_S, found, f"Is it running? forebay work --only {side}")

    def _dead_letters(self) -> Check:
        counts = deadletters.count(self._cluster, self.topics)
        found = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items())) or "none"
        return Check(
            "dead letters",
            not counts,
            found,
            "Run: forebay deadletters list",
        )

    def _undeclared(self) -> Check:
        """What the newest events of the clean logs carry and the generation's spec does not know. No fault: producers
        may send more."""
        looked, counts = 0, Counts()
        for side in SIDES:
            counter, info = Undeclared(self._bundle.spec, side), self._infos[self.topics.events(side)]
            for message in tail.newest(self._cluster, info.name, info.partitions, SAMPLE, SAMPLE_S):
                try:
                    block = Block.decode(dict(message.headers() or ())[HEADER], message.value() or b"")
                except (BlockError, KeyError):
                    continue  # a stranger's; workers tell of it
                counts.update(counter.count(block))
                looked += len(block) if side == "user" else int((block.numbers("kind") == ITEM_UPDATE).sum())
        told = ", ".join(f"{kind} {name!a} ({n:,})" for (kind, name), n in counts.most_common(TOLD))
        more = f" and {len(counts) - TOLD} more" if len(counts) > TOLD else ""
        found = f"{told}{more} of the newest {looked:,} events" if told else f"nothing in the newest {looked:,} events"
        return Check("undeclared", True, found, "Declare in the spec what a model should know; all else is ignored")

    def _server(self) -> Check:
        with asking(self.settings, timeout_s=2.0) as client:
            state = client.ready()
        found = f"ready at {self.settings.server}" if state.ready else f"not ready: {state.reason}"
        return Check(
            "lookup server", state.ready, found, "Start it with: forebay serve, and a worker with: forebay work"
        )

    def _clock(self) -> Check:
        ahead = self._newest_mark_s - time.time()
        found = "not behind the broker's" if ahead <= CLOCK_BOUND_S else f"{ahead:.1f} s behind the broker's"
        return Check("clock", ahead <= CLOCK_BOUND_S, found, "Run a time daemon: ages and lateness compare the two")

    def _checkpoints(self) -> Check:
        """Whether another machine could go on: how old the oldest of the newest copies is."""
        kept, scope = Checkpoints(self.settings.checkpoints_url), self._manifest.name
        wanted = [f"{scope}/{side}-{p}" for side in SIDES for p in range(self._manifest.partitions[side])]
        newest = {of: names[0] for of in wanted if (names := kept.names(of))}
        if missing := [of for of in wanted if of not in newest]:
            found = f"none of {', '.join(missing[:TOLD])} at {kept.url}"
            return Check("checkpoints", False, found, "A worker makes them: what does its log say of checkpoints?")
        age = time.time() - min(kept.load(of, name).created for of, name in newest.items()) / 1000
        every = duration_ms(self.settings.checkpoint_every, "checkpoint_every") / 1000
        still = ": nothing has come since, or a worker's log says why" if age > 3 * every else ""
        return Check("checkpoints", True, f"of {len(wanted)} partitions, the oldest {age / 60:.0f} min old{still}")

    def _faiss(self) -> Check:
        """Which build lists of items are trained by: two distributions overwrite each other."""
        one_installed()
        return Check("faiss", True, about())

    def _disk(self) -> Check:
        folder = self.settings.data_dir if self.settings.data_dir.exists() else Path()
        free = shutil.disk_usage(folder).free
        return Check(
            "disk",
            free >= DISK_FLOOR_BYTES,
            f"{free / (1 << 30):.1f} GiB free",
            "Make room: a full disk stops the worker",
        )


def _version(admin: Any) -> str:
    """Such as 4.2, by what the broker understands; "" where it does not say."""
    try:
        told = admin.get_broker_version_data(admin.describe_cluster()["controller_id"]).broker_version
    except kafka_python().errors.KafkaError:
        return ""
    return ".".join(map(str, told))
