"""What records cost that are no events: the same good events alone, and with one poison record after each nine.

    python benchmarks/streams/poison.py --repeats 3                      # about 2 minutes for each repeat
    python benchmarks/streams/poison.py --share 0.01                     # another share

Poison is of twelve kinds by turns: JSON that ends in the middle, bytes that are no text, JSON that is no event, nothing
at all, a field that lacks, one of a wrong type, an unknown kind, a user without a name, a value past all bounds, a time
that is none, one that is late, and one from the future. Each becomes a dead letter,
which is counted at the end. What is measured is good events committed in a second, by the Intake alone and by a whole
worker (Intake, item side, user side); the cost is how much fewer they are.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from figures import Figure, Goal, rate_of, tell, words_of
from forebay.clock import DAY_MS, HOUR_MS, now_ms
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics
from load import Load, Pair, send
from rig import Site, drop_topics, followed, movielens, records, say

STAGES = {"the Intake": ["intake"], "a whole worker": ["intake", "item", "user"]}
MOST_PERCENT = 15.0


def main() -> int:
    words = words_of(__doc__)
    words.add_argument("--events", type=int, default=400_000, help="good ones (400,000)")
    words.add_argument("--share", type=float, default=0.1, help="of poison among all records, below 0.5 (0.1)")
    words.add_argument("--seconds", type=float, default=120.0, help="a measurement is cut after so long (120)")
    given = words.parse_args()
    if not 0 < given.share < 0.5:
        words.error("--share is above 0 and below 0.5: a source that is mostly poison stands still")
    every = round(1 / given.share) - 1  # good records before each poison one
    bundle = movielens(20_000)
    genres = tuple(str(v) for v in bundle.spec.attribute("item", "genres").values)
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="forebay-poison-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        for turn in range(given.repeats):
            load = Load(given.events, seed=turn, genres=genres)
            for what, stages in STAGES.items():
                for good_before in (0, every):
                    topics = Topics(f"{what[-6:]}{turn}.{good_before}.")
                    site = Site.made(broker, topics, bundle, Path(folder) / topics.prefix)
                    rate = _measured(site, load, stages, good_before, given.seconds)
                    name = f"{what}, {'with' if good_before else 'without'} poison"
                    found[name].append(rate)
                    say(f"repeat {turn + 1} of {given.repeats}: {name}, {rate:,.0f} good events/s")
                    drop_topics(broker.bootstrap, topics.prefix)
    figures = [Figure(name, values, "good events/s") for name, values in found.items()]
    for what in STAGES:
        costs = [
            100 * (1 - bad / good)
            for good, bad in zip(found[f"{what}, without poison"], found[f"{what}, with poison"], strict=True)
        ]
        figures.append(Figure(f"cost of poison, {what}", costs, "%", Goal(MOST_PERCENT, at_most=True)))
    tell(figures, as_json=given.json, more={"good events": given.events, "poison, of all records": 1 / (every + 1)})
    return 0


def poison(now_ms: int) -> Iterator[bytes]:
    """Records that the Intake refuses, each kind in turn, for ever."""
    for n in itertools.count():
        yield from (
            _record(now_ms, n)[:60],
            b"\xff\xfe\x00\x01 no text at all, as a compressed record would be",
            b'["a", "list", "of", "words"]',
            b"",
            _record(now_ms, n).replace(b'"item":"i1",', b""),
            _record(now_ms, n).replace(b"4.0", b'"four"'),
            _record(now_ms, n).replace(b"behaviour", b"heartbeat"),
            _record(now_ms, n).replace(b'"u1"', b'""'),
            _record(now_ms, n).replace(b"4.0", b"1e300"),
            _record(0, n),
            _record(now_ms - 2 * DAY_MS, n),
            _record(now_ms + 2 * HOUR_MS, n),
        )


def _record(time_ms: int, number: int) -> bytes:
    """An event as a publisher would write it."""
    text = '{"type":"behaviour","user":"u1","item":"i1","action":"rate","value":4.0,"time":%d,"id":"poison-%d"}'
    return (text % (time_ms, number)).encode()


def mixed(good: Iterable[Pair], bad: Iterator[bytes], good_before: int) -> Iterator[Pair]:
    """`good` with one of `bad` after each `good_before`, under the key of the one before it; 0: none."""
    for number, (key, value) in enumerate(good, start=1):
        yield key, value
        if good_before and number % good_before == 0:
            yield key, next(bad)


def _measured(site: Site, load: Load, stages: Sequence[str], good_before: int, seconds: float) -> float:
    """Good events in a second. Raises SystemExit where poison and dead letters are not equal in number."""
    now = now_ms()
    count, _ = send(site.broker.bootstrap, site.topics.behaviour, mixed(load.pairs(now), poison(now), good_before))
    expected = count if stages[-1] == "intake" else load.events  # the sides see good ones alone
    with site.working(stages) as child:
        seen = followed(child, child.commits, expected, seconds)
    if seen[-1].events < expected:
        raise SystemExit(f"{seen[-1].events:,} of {expected:,} after {seconds:.0f} s: give it --seconds")
    letters = sum(1 for _ in records(site.broker.bootstrap, site.topics.dead_letters))
    if letters != count - load.events:
        raise SystemExit(f"{letters:,} dead letters of {count - load.events:,} poison records")
    return rate_of(seen).per_s * load.events / expected


if __name__ == "__main__":
    raise SystemExit(main())
