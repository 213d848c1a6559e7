"""`forebay demo`: the main job on real input, in six steps, with nothing in it that a production set-up would not run.

Kafka, the stream worker and the lookup server are processes of their own with directories of their own; what is shown
of the ranking went event -> Kafka -> worker -> vectors topic -> server.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from forebay.cli import demo_story
from forebay.cli.console import err, out, print_json, progress
from forebay.clock import HOUR_MS, now_ms
from forebay.errors import ConfigError, ForebayError
from forebay.events import Behaviour
from forebay.retrieval.client import Client
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import BEHAVIOUR, HEADER
from forebay.segments.bundle import Bundle
from forebay.segments.evaluation.freshness import Worth, final_vectors, worth
from forebay.segments.history import History
from forebay.segments.spec import SIDES
from forebay.store.checkpoints import Checkpoints
from forebay.streams import deadletters, tail
from forebay.streams.backfill import backfill
from forebay.streams.dev.child import end, spawn
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.dev.kafkajars import VERSION
from forebay.streams.publisher import EventPublisher
from forebay.streams.topics import Topics, ensure

GENERATION = "g1"
TITLES = "titles.tsv"  # of films, for the inspect page
PARTITIONS = 4
TRAIN, VALIDATION, LIVE = 0.7, 0.1, 0.1  # of all ratings, by time; the last tenth is not used
PROBES = 200  # of the live ratings are sent one by one, each timed until it is served
LOOKUPS = 1000
CANDIDATES = 1000
PATIENCE_S = 120.0
LATE_AFTER = "30d"  # ratings keep their own times, and the live tenth is of some weeks


class Demo:
    """One run. Everything it starts it ends, in any case; everything it writes lies in one temporary folder."""

    def __init__(self, *, port: int, kafka_port: int, keep: bool, as_json: bool) -> None:
        self.port, self.kafka_port, self.keep, self.as_json = port, kafka_port, keep, as_json
        self.figures: dict[str, Any] = {}
        self.started = time.monotonic()

    def run(self) -> int:
        """The six steps; returns the exit code."""
        from forebay.segments.datasets import movielens

        _free(self.port, "--port", "PORT")
        movielens.folder()  # named now if it is missing, not after a minute of work
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="forebay-demo-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            broker = stack.enter_context(DevKafka(self.folder / "kafka", port=self.kafka_port, say=self._note))
            self.bootstrap, self.topics = broker.bootstrap, Topics()
            self._say(1, f"Kafka {VERSION} started on {self.bootstrap} (no Java or Docker needed)")
            now = now_ms()
            history = movielens.load(now, TRAIN + VALIDATION + LIVE)
            bundle = self._train(history)
            cut = history.moment((TRAIN + VALIDATION) / (TRAIN + VALIDATION + LIVE))
            self._build(bundle, history.before(cut), now)
            client = stack.enter_context(Client(f"http://127.0.0.1:{self.port}", timeout_s=10.0))
            self._start(stack, "work", "--data", str(self.data), "--state", str(self.folder / "worker"))
            titles = self.data / TITLES
            titles.write_text("".join(f"{item}\t{title}\n" for item, title in movielens.titles().items()), "utf-8")
            self._start(
                stack, "serve", "--data", str(self.data), "--vectors", str(self.folder / "server"), "--port",
                str(self.port)
            )  # fmt: skip
            # A machine's first worker compiles for half a minute; what it has said is a line of its log.
            self._until(self._works, "the worker is not ready")
            self._until(lambda: _is_ready(client), "the server is not ready")
            self._replay(client, [b for b in history.behaviours if (b.time or 0) >= cut])
            self._measure(client, history)
            self._check_served(client, bundle, history)
            self._tell(client, history, worth(bundle, history, cut))
            if self.keep:
                self._stay()
        return 0

    # -- steps

    def _train(self, history: History) -> Bundle:
        from forebay.cli.source import spec
        from forebay.segments.training import RetrieveOptions, TrainingOptions, train

        started, total = time.monotonic(), TRAIN + VALIDATION + LIVE
        model = spec(None, "movielens")
        # Without its teachers, which gain .002 AUC, and without the epochs that only make sure that nothing more is
        # gained: together they would be two thirds of the time until there is something to see.
        options = TrainingOptions.of(
            model,
            train_share=TRAIN / total,
            validation_share=VALIDATION / total,
            distill=0.0,
            weight_decay=1.0,
            learning_rate=1e-3,
            epochs=4,
            retrieve=RetrieveOptions(epochs=6),
        )
        with progress("training", "epochs") as bar:
            bundle = train(model, history, options, lambda _, done, epochs, __: bar(done, epochs))
        self.data = self.folder / "data"
        bundle.save(self.data / "bundles")
        took, auc = time.monotonic() - started, bundle.record["validation_auc"]
        self.figures |= {"train_s": took, "validation_auc": auc}
        examples = bundle.record["examples"]["train"]
        self._say(2, f"bundle {bundle.name} trained on {examples:,} events · {took:.0f} s · validation AUC {auc:.3f}")
        return bundle

    def _build(self, bundle: Bundle, history: History, now: int) -> None:
        ensure(self.bootstrap, self.topics, generation=GENERATION, partitions=PARTITIONS)
        started = time.monotonic()
        with progress("folding", "events") as bar:
            backfill(
                bundle, history, name=GENERATION, bootstrap=self.bootstrap, topics=self.topics,
                folder=self.data / "generations" / GENERATION, state_folder=self.folder / "worker" / GENERATION,
                now_ms=now, progress=bar, checkpoints=Checkpoints(str(self.data / "checkpoints")),
            )  # fmt: skip
        took = time.monotonic() - started
        self.figures["backfill_s"] = took
        self._say(
            3,
            f"generation {GENERATION} ready: {len(history.times):,} events folded in {took:.1f} s, "
            f"{len(history.items):,} items",
        )

    def _replay(self, client: Client, live: list[Behaviour]) -> None:
        bulk, probes = live[:-PROBES], live[-PROBES:]
        started = time.monotonic()
        with EventPublisher(self.bootstrap, topics=self.topics, linger_ms=5) as publisher:
            with progress("replaying", "events") as bar:
                for place, event in enumerate(bulk, start=1):
                    publisher.send(event)
                    if place % 500 == 0:
                        bar(place, len(live))
                publisher.flush()
                last = {b.user: b.time or 0 for b in bulk}
                self._until(lambda: _served(client, last), "the replayed events are not served")
                took = time.monotonic() - started
            waits = [w for event in probes if (w := self._probe(client, publisher, event)) is not None]
            sent = publisher.acknowledged
        rate = len(bulk) / took
        self._until(lambda: self._accepted() == sent, f"not all of the {sent:,} events sent were accepted")
        dead = deadletters.count(self.bootstrap, self.topics)
        if dead:
            raise ForebayError(
                f"there are dead letters: {dead}", where=self.topics.dead_letters, do="This is a bug: please report it"
            )
        self.waits_ms = np.array(waits) * 1000
        self.figures |= {"replay_events_per_s": rate, "sent": sent, "accepted": sent, "dead_letters": 0}
        self._say(
            4,
            f"replayed {sent:,} live events · {rate:,.0f} events/s sent, folded, encoded and served · {sent:,} "
            f"accepted, 0 dead letters",
        )

    def _probe(self, client: Client, publisher: EventPublisher, event: Behaviour) -> float | None:
        """Seconds from sending `event` until a lookup shows it; None when an event of the same moment was served
        before."""
        before = client.entity("user", event.user)
        newest = (before.segments["recent"].freshness.last_event or 0) if before.known else 0
        started = time.monotonic()
        publisher.send(event)
        publisher.flush()
        if newest >= (event.time or 0):
            return None
        self._until(lambda: _served(client, {event.user: event.time or 0}), "an event is not served", pause_s=0.002)
        return time.monotonic() - started

    def _measure(self, client: Client, history: History) -> None:
        random = np.random.default_rng(0)
        items = [i.item for i in history.items]
        users = sorted({b.user for b in history.behaviours})
        times = []
        for place in range(LOOKUPS + 50):
            user = users[int(random.integers(len(users)))]
            candidates = [items[i] for i in random.permutation(len(items))[:CANDIDATES]]
            started = time.perf_counter()
            client.rank(user, candidates, k=50)
            if place >= 50:
                times.append(time.perf_counter() - started)
        waits = np.percentile(self.waits_ms, [50, 99])
        lookups = np.percentile(np.array(times) * 1000, [50, 99])
        self.figures |= {
            "event_to_servable_ms": {"p50": waits[0], "p99": waits[1], "n": len(self.waits_ms)},
            "lookup_ms": {"p50": lookups[0], "p99": lookups[1], "n": LOOKUPS, "candidates": CANDIDATES},
        }
        self._say(
            5,
            f"event → servable p50 {waits[0]:.0f} ms, p99 {waits[1]:.0f} ms · lookup over HTTP ({CANDIDATES:,} "
            f"candidates) p50 {lookups[0]:.2f} ms, p99 {lookups[1]:.2f} ms",
        )

    def _check_served(self, client: Client, bundle: Bundle, history: History) -> None:
        """The served vectors are, byte for byte, those of a replay of the same log outside of the stream."""
        differing: list[str] = []

        def equal() -> bool:
            clock = now_ms() // HOUR_MS * HOUR_MS
            differing.clear()
            for side in SIDES:
                ids, encoded = final_vectors(bundle, history, side, clock)
                for row, entity in enumerate(ids):
                    stored = client.entity(side, entity, vectors=True).segments
                    for segment, e in zip(bundle.spec.side(side), encoded, strict=True):
                        part = stored.get(segment.name)
                        if part is None or part.codes != e.vectors[row].tobytes() or part.scale != float(e.scale[row]):
                            differing.append(f"{segment.title} of {entity}")
                self.figures[f"{side}s_equal"] = len(ids)
            return not differing

        # Item statistics arrive a moment after the user's vectors, and their windows move with the hour's tick:
        # patience, then no.
        deadline = time.monotonic() + PATIENCE_S / 8
        while not equal() and time.monotonic() < deadline:
            time.sleep(0.5)
        if differing:
            raise ForebayError(
                f"{len(differing)} served vectors are not those of the replay",
                where=differing[0],
                do="This is a bug: please report it",
            )

    def _tell(self, client: Client, history: History, value: Worth) -> None:
        with EventPublisher(self.bootstrap, topics=self.topics, linger_ms=0) as publisher:
            story = demo_story.choose(client, history)
            before = demo_story.ranking(client, story)
            # A millisecond apart: what is served is known by its newest event, and all five are to be.
            moments = [now_ms() + n for n in range(len(story.invented))]
            for item, moment in zip(story.invented, moments, strict=True):
                publisher.send(Behaviour(story.user, item, "rate", 5.0, moment, item_attributes=story.attributes[item]))
            publisher.flush()
            self._until(lambda: _served(client, {story.user: moments[-1]}), "the invented ratings are not served")
            after = demo_story.ranking(client, story)
        self._say(6, f"five new ratings of {story.genre} by user {story.user}, and the ranking moves at once:")
        self.figures |= {
            "auc": {"fresh": value.fresh_auc, "nightly": value.nightly_auc, "impressions": value.impressions},
            "story": demo_story.as_data(story, before, after),
            "seconds": time.monotonic() - self.started,
        }
        if self.as_json:
            print_json(self.figures)
            return
        demo_story.show(story, before, after)
        people, items = self.figures["users_equal"], self.figures["items_equal"]
        out.print(
            f"\nFresh vectors scored AUC {value.fresh_auc:.3f} on what these users did next; "
            f"last night's would have scored {value.nightly_auc:.3f}.\n"
            f"Served vectors of {people:,} users and {items:,} items are byte-equal to a replay of the same log. "
            f"The Intake's late_after is {LATE_AFTER}: ratings\nkeep their own times, moved by whole days so that the "
            "last is now."
        )
        if not self.keep:
            out.print("Next: make demo KEEP=1, then  .venv/bin/forebay lookup user:" + story.user)

    def _stay(self) -> None:
        from forebay.cli.processes import stop_event

        stop = stop_event()
        url = f"http://127.0.0.1:{self.port}"
        out.print(
            f"\nUp until Ctrl-C. Try:\n  .venv/bin/forebay lookup user:{self.figures['story']['user']} --server {url}\n"
            f"  .venv/bin/forebay doctor --bootstrap {self.bootstrap} --server {url} --data {self.data}\n"
            f"  curl -s {url}/metrics\n"
            f"In a browser: {url}/?side=user&id={self.figures['story']['user']}"
        )
        while not stop.wait(0.5):
            self._all_alive()

    # -- what the steps need

    def _say(self, step: int, text: str) -> None:
        (err if self.as_json else out).print(f"[{step}/6] {text}", markup=False)

    def _note(self, text: str) -> None:
        err.print(f"      {text}", markup=False)

    def _start(self, stack: ExitStack, verb: str, *options: str) -> None:
        log_path = self.folder / f"{verb}.log"
        log = stack.enter_context(log_path.open("wb"))
        command = [sys.executable, "-m", "forebay.cli", verb, "--bootstrap", self.bootstrap, "--generation", GENERATION]
        titles = {"FOREBAY_INSPECT_TITLES": str(self.data / TITLES)} if verb == "serve" else {}
        process = spawn([*command, *options], log, environment=_environment() | titles)
        stack.callback(end, process)
        self.children = [*getattr(self, "children", []), (verb, process, log_path)]

    def _works(self) -> bool:
        return "ready: generation" in (self.folder / "work.log").read_text(errors="replace")

    def _all_alive(self) -> None:
        for verb, process, log_path in self.children:
            if process.poll() is not None:
                last = "\n".join(log_path.read_text(errors="replace").splitlines()[-6:])
                raise ForebayError(f"forebay {verb} ended with code {process.returncode}:\n{last}")

    def _until(self, done: Callable[[], bool], otherwise: str, pause_s: float = 0.02) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            self._all_alive()
            if time.monotonic() > deadline:
                raise ForebayError(f"{otherwise} after {PATIENCE_S:.0f} s", where=str(self.folder))
            time.sleep(pause_s)

    def _accepted(self) -> int:
        """Behaviours in the clean log."""
        records = tail.read(self.bootstrap, self.topics.events("user"), dict.fromkeys(range(PARTITIONS), 0))
        blocks = (Block.decode(dict(m.headers() or ())[HEADER], m.value() or b"") for m in records)
        return sum(int((block.numbers("kind") == BEHAVIOUR).sum()) for block in blocks)


def _environment() -> dict[str, str]:
    """Ours without settings of other installations: the children are told everything by flags, and how old a rating may
    be."""
    ours = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")}
    return ours | {"FOREBAY_CONFIG": os.devnull, "FOREBAY_LATE_AFTER": LATE_AFTER}


def _is_ready(client: Client) -> bool:
    try:
        return client.ready().ready
    except ForebayError:
        return False


def _served(client: Client, newest: dict[str, int]) -> bool:
    """Whether each user's newest event (ms) is in what lookups see. Drops from `newest` those that are."""
    for user, time_ms in list(newest.items()):
        segment = client.entity("user", user).segments.get("recent")
        if segment is None or (segment.freshness.last_event or 0) < time_ms:
            return False
        del newest[user]
    return True


def _free(port: int, flag: str, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is in use ({error.strerror})", do=f"Take another with {flag} (make demo {variable}=…)"
            ) from None
