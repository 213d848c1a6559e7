"""The user side against faust and quixstreams, from the same topic of the same events.

    python benchmarks/streams/peers.py --repeats 3                       # about 7 minutes for each repeat
    python benchmarks/streams/peers.py --events 300000 --seconds 20 --repeats 1

One broker, one topic of JSON events (190 bytes, Zipf 1.1 over 100,000 users, four partitions), one process for each
contestant, one after the other, and this order again in each repeat, since a machine's speed drifts. All begin at the
topic's start with nothing in their state.

    forebay                      Intake and user Processor as `forebay work` has them: five encoders, Blocks of both
                                 sides, vectors and offsets in transactions
    forebay, from the clean log  the user Processor alone, over what that Intake wrote
    faust                        an agent with a Table (count, mean, last 30), and a feature record for each event
    quixstreams                  a StreamingDataFrame with State, the same features and records, at least once
    quixstreams, exactly once    the same, in transactions

A rate is what was committed between the first commit seen and the last: some commit each 5 s. A contestant that is
slower is cut `--seconds` after its first commit. Feature records of peers are held against a computation of our own,
and what we wrote against the users that the topic has. The peers have an environment of their own in `--env`, made by

    python -m venv ENV && ENV/bin/pip install 'faust-streaming[uvloop,orjson,rocksdict]==0.15.3' quixstreams==3.28.1
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, TopicPartition

from figures import Figure, Goal, Rate, Seen, rate_of, tell, words_of
from forebay.clock import now_ms
from forebay.store.codec import HEARTBEAT_KEY
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics
from load import Load, item_of, send, user_of
from rig import (
    FIRST_USER,
    PARTITIONS,
    Site,
    cpu_s,
    drop_topics,
    followed,
    make_topics,
    movielens,
    records,
    running,
    say,
)

PACKAGES = ("faust-streaming[uvloop,orjson,rocksdict]==0.15.3", "quixstreams==3.28.1")
INSTALL_S = 600
LAST_S = 60.0  # for the vectors of the last commit that was seen to be read
WHOLE, CLEAN, FAUST, QUIX, QUIX_ONCE = CONTESTANTS = (
    "forebay", "forebay, from the clean log", "faust", "quixstreams", "quixstreams, exactly once",
)  # fmt: skip
GOALS = {FAUST: 25.0, QUIX: 2.5, QUIX_ONCE: 2.5}
CHECKED, LAST = 5_000, 30  # feature records of a partition, and what they list


@dataclass(frozen=True)
class Rules:
    """What all contestants of a run share."""

    load: Load
    seconds: float
    env: Path
    faust_store: str


def main() -> int:
    words = words_of(__doc__)
    words.add_argument("--events", type=int, default=2_000_000, help="in the topic (2,000,000)")
    words.add_argument("--seconds", type=float, default=60.0, help="of a contestant, after its first commit (60)")
    words.add_argument("--users", type=int, default=100_000, help="that events are drawn from (100,000)")
    words.add_argument("--only", action="append", choices=CONTESTANTS, help="leave the others out; may be repeated")
    words.add_argument(
        "--env",
        type=Path,
        default=Path(tempfile.gettempdir()) / "forebay-peers",
        help="the peers' environment (%(default)s)",
    )
    words.add_argument("--faust-store", choices=("memory", "rocksdb"), default="memory", help="of its Table (memory)")
    given = words.parse_args()
    chosen = [name for name in CONTESTANTS if given.only is None or name in given.only]
    if CLEAN in chosen and WHOLE not in chosen:
        chosen.insert(0, WHOLE)  # it writes that log
    if set(chosen) - {WHOLE, CLEAN}:
        install(given.env)
    bundle = movielens(20_000)
    genres = tuple(str(v) for v in bundle.spec.attribute("item", "genres").values)
    rates: dict[str, list[Rate]] = defaultdict(list)
    sizes = []
    with tempfile.TemporaryDirectory(prefix="forebay-peers-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        for turn in range(given.repeats):
            rules = Rules(
                Load(given.events, given.users, seed=turn, genres=genres), given.seconds, given.env, given.faust_store
            )
            here, topics = Path(folder) / str(turn), Topics(f"p{turn}.")
            site = Site.made(broker, topics, bundle, here, ("g1", "g2"))
            count, size = send(broker.bootstrap, topics.behaviour, rules.load.pairs(now_ms()))
            sizes.append(size / count)
            say(f"repeat {turn + 1} of {given.repeats}: {count:,} events of {size / count:.0f} bytes")
            for name in chosen:
                rate = _ours(site, rules, name) if name in (WHOLE, CLEAN) else _peer(site, rules, name)
                rates[name].append(rate)
                say(f"{name}: {rate.per_s:,.0f} events/s, {rate.cpu_us:.1f} µs CPU each, over {rate.seconds:.1f} s")
            drop_topics(broker.bootstrap, topics.prefix)
    tell(list(_figures(rates)), as_json=given.json, more={
        "events": given.events, "bytes of an event": round(sum(sizes) / len(sizes)), "faust store": given.faust_store,
        "peers": ", ".join(PACKAGES),
    })  # fmt: skip
    return 0


def install(env: Path) -> None:
    """The peers' environment at `env`, where there is none. Raises SystemExit with pip's words."""
    done = env / "installed"
    if done.exists() and done.read_text() == "\n".join(PACKAGES):
        return
    say(f"installing {' and '.join(PACKAGES)} into {env}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True, timeout=INSTALL_S)
    command = [str(env / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    result = subprocess.run(command, check=False, timeout=INSTALL_S, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"the peers cannot be installed:\n{result.stderr}")
    done.write_text("\n".join(PACKAGES))


# -- contestants


def _ours(site: Site, rules: Rules, name: str) -> Rate:
    stages, generation = (["intake", "user"], "g1") if name == WHOLE else (["user"], "g2")
    with site.working(stages, generation) as child:

        def look() -> list[Seen]:
            return child.commits()

        seen = followed(child, look, rules.load.events, rules.seconds, _progress(name))
        if seen[-1].events >= rules.load.events:
            _all_told(site, rules.load, generation)
    return rate_of(seen)


def _peer(site: Site, rules: Rules, name: str) -> Rate:
    group = f"{site.topics.prefix}{name.replace(', ', '-').replace(' ', '-')}"
    to, bootstrap = f"{group}.features", site.broker.bootstrap
    make_topics(bootstrap, [to])
    folder = site.folder / group
    folder.mkdir()
    script = Path(__file__).with_name("contestants") / ("faust_agent.py" if name == FAUST else "quix_state.py")
    more = {FAUST: ["--store", rules.faust_store], QUIX: [], QUIX_ONCE: ["--exactly-once"]}[name]
    command = [
        str(rules.env / "bin" / "python"), str(script), "--bootstrap", bootstrap, "--source", site.topics.behaviour,
        "--to", to, "--group", group, "--folder", str(folder), *more,
    ]  # fmt: skip
    asked = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    places = [TopicPartition(site.topics.behaviour, p) for p in range(PARTITIONS)]
    seen: list[Seen] = []
    try:
        with running(command, folder.with_suffix(".log"), {"PATH": "/usr/bin:/bin", "HOME": str(folder)}) as child:

            def look() -> list[Seen]:
                done = sum(max(0, place.offset) for place in asked.committed(places, timeout=10))
                if done and (not seen or done > seen[-1].events):
                    seen.append(Seen(time.monotonic(), done, cpu_s(child.process.pid), cpu_s(site.broker.pid)))
                return seen

            followed(child, look, rules.load.events, rules.seconds, _progress(name))
    finally:
        asked.close()
    _held_against(bootstrap, to, rules.load)
    drop_topics(bootstrap, group)
    return rate_of(seen)


# -- whether they did their work


class Features(msgspec.Struct, frozen=True):
    """A feature record."""

    count: int
    mean: float
    last: list[str]


def features(events: Iterable[tuple[str, str, float]], most: int) -> Iterator[tuple[str, Features]]:
    """What follows each event (user, item, value), of a user's first `most`: what peers are held against."""
    of: dict[str, tuple[list[str], list[float]]] = defaultdict(lambda: ([], []))
    for user, item, value in events:
        items, values = of[user]
        if len(items) < most:
            items.append(item)
            values.append(values[-1] + value if values else value)  # sums
            yield user, Features(len(items), values[-1] / len(items), items[-LAST:])


def first_wrong(told: Sequence[tuple[str, Features]], wanted: Mapping[str, Sequence[Features]]) -> str:
    """What is wrong with the records of a partition's beginning, in words; "" when nothing is. A user's records come
    in order, and each differs from the one before."""
    places: dict[str, int] = defaultdict(int)
    for user, found in told:
        place = places[user]
        places[user] += 1
        right = wanted[user][place] if place < len(wanted.get(user, ())) else None
        if right is None:
            return f"{user} has {place + 1} records, and fewer events"
        if found.count != right.count or found.last != right.last or abs(found.mean - right.mean) > 1e-9:
            return f"record {place + 1} of {user} is {found}, and was to be {right}"
    return ""


def _held_against(bootstrap: str, topic: str, load: Load) -> None:
    """Raises SystemExit where the first records of a partition are not what follows from the events."""
    told: dict[int, list[tuple[str, Features]]] = {partition: [] for partition in range(PARTITIONS)}
    for partition, key, value in records(bootstrap, topic, CHECKED):
        told[partition].append((key.decode(), msgspec.json.decode(value, type=Features)))
    if not any(told.values()):
        raise SystemExit(f"{topic} has no records")
    users = {user for found in told.values() for user, _ in found}
    events = ((user_of(user), item_of(item), value) for user, item, value in load.rows())
    wanted: dict[str, list[Features]] = defaultdict(list)
    for user, right in features((one for one in events if one[0] in users), CHECKED):
        wanted[user].append(right)
    for found in told.values():
        if wrong := first_wrong(found, wanted):
            raise SystemExit(f"{topic}: {wrong}")


def _all_told(site: Site, load: Load, generation: str) -> None:
    """Raises SystemExit where not every user of the topic has vectors, soon after the last commit that was seen."""
    topic = site.topics.vectors(generation, "user")
    users = {user_of(user).encode() for user, _, _ in load.rows()} | {FIRST_USER.encode()}
    deadline = time.monotonic() + LAST_S
    while True:
        told = {key for _, key, _ in records(site.broker.bootstrap, topic)} - {HEARTBEAT_KEY}
        if told == users:
            return
        if time.monotonic() < deadline:
            continue
        raise SystemExit(f"{topic} has vectors of {len(told):,} users, and there are {len(users):,}")


# -- what is told


def _figures(rates: Mapping[str, Sequence[Rate]]) -> Iterator[Figure]:
    for name, found in rates.items():
        yield Figure(name, [rate.per_s for rate in found], "events/s")
        yield Figure(f"{name}: CPU of its process", [rate.cpu_us for rate in found], "µs/event")
    for name, goal in GOALS.items():
        for ours in (WHOLE, CLEAN):
            if name in rates and ours in rates:
                # In one repeat, since the machine's speed drifts from one to the next.
                times = [a.per_s / b.per_s for a, b in zip(rates[ours], rates[name], strict=True)]
                yield Figure(f"{ours}, of {name}", times, "times", Goal(goal) if ours == WHOLE else None)


def _progress(name: str) -> Any:
    last = [time.monotonic()]

    def told(events: int) -> None:
        if time.monotonic() - last[0] >= 10:
            last[0] = time.monotonic()
            say(f"{name}: {events:,} events committed")

    return told


if __name__ == "__main__":
    raise SystemExit(main())
