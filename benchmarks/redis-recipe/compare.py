"""The Redis recommender recipe and Forebay on the same MovieLens events: quality, time of a lookup, lines of code.

    python benchmarks/redis-recipe/compare.py --redis PATH/TO/redis-server      # Redis 8 or later, for vector sets
    python benchmarks/redis-recipe/compare.py --seeds 0                         # the recipe alone: a minute

The split, the impressions, the choices and the metrics are those of `forebay evaluate`: 70 / 10 / 20 by time, features
of strictly earlier events, every user of the test part. What the recipe chooses is chosen on the validation part;
README.md says what. Its item vectors are then made again of all that lies before the test part. Quality is computed
in process by recipe.py's own formulas, with exact KNN. At the end all events go through a real Redis server: lookups
there are held against the formulas, and timed. Forebay is trained as `forebay train` does it, once for each seed, and
its server process is timed over HTTP; the recipe is timed inside its service, without HTTP.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
for folder in ("streams", "serving"):
    sys.path.insert(1, str(Path(__file__).resolve().parents[1] / folder))

import numpy as np
from recipe import KEPT, Profile, Recipe, Tuned, item_vectors

from figures import Figure, tell, words_of
from forebay.cli import source
from forebay.cli.benchnode import node_of_benches
from forebay.cli.console import err
from forebay.retrieval.client import Client
from forebay.segments.evaluation.replayed import Replayed, Served
from forebay.segments.history import History
from forebay.segments.history.choices import Choices
from forebay.segments.history.examples import Examples
from forebay.segments.training import TrainingOptions, metrics, train, with_teacher
from forebay.segments.training.material import Material, Parts
from peers import redis_server

HERE = Path(__file__).resolve().parent
QUESTIONS, LOOKUPS, CANDIDATES, CHECKED = 2_000, 1_000, 1_000, 200
DIMS, DECAYS, LASTS = (32, 64, 128, 256), (0.9, 0.95, 0.98, 1.0), (30, 100)
POPULARITIES, AFFINITIES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6), (0.0, 0.1, 0.3, 1.0)
ATTEMPT = Tuned(popularity=0.8, affinity=0.1)  # what the others are tried beside


@dataclass(frozen=True)
class Log:
    """The ratings in order of time, as row numbers of users and items; genres by item."""

    users: list[str]
    items: list[str]
    genres: list[list[str]]
    user: list[int]
    item: list[int]
    value: list[float]
    time: list[int]

    @classmethod
    def of(cls, history: History, examples: Examples) -> Log:
        users, items = (list(examples.logs[side].entities) for side in ("user", "item"))
        row = {side: {name: n for n, name in enumerate(names)} for side, names in (("user", users), ("item", items))}
        own: dict[str, list[str]] = {one.item: list(one.attributes.get("genres", [])) for one in history.items}  # type: ignore[arg-type]
        acts = history.behaviours
        return cls(
            users, items, [own.get(item, []) for item in items], [row["user"][a.user] for a in acts],
            [row["item"][a.item] for a in acts], [float(a.value or 0) for a in acts], [int(a.time or 0) for a in acts],
        )  # fmt: skip

    def liked_before(self, until: int) -> tuple[Any, Any]:
        """Rows of users and items."""
        pairs = zip(self.user, self.item, self.value, self.time, strict=True)
        liked = [(u, i) for u, i, value, at in pairs if at < until and value >= 4]
        return np.array([u for u, _ in liked]), np.array([i for _, i in liked])


class Twin:
    """What Redis would hold, in this process."""

    def __init__(self, log: Log, recipe: Recipe) -> None:
        self.log, self.recipe = log, recipe
        self.likes: dict[int, list[str]] = defaultdict(list)
        self.counts: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def event(self, n: int) -> None:
        """Rating number n."""
        user, item, value = self.log.user[n], self.log.item[n], self.log.value[n]
        if value >= 4:
            self.likes[user].insert(0, self.log.items[item])
            del self.likes[user][KEPT:]
        for genre in (*self.log.genres[item], "all"):
            self.counts[user][genre] += 1
            self.sums[user][genre] += value
        self.recipe.count[item] += 1
        self.recipe.sum[item] += value

    def profile(self, user: int) -> Profile:
        return Profile(list(self.likes[user]), dict(self.counts[user]), dict(self.sums[user]))


@dataclass
class Read:
    """What the recipe knows at each impression of a part, strictly before it, and at each of its choices."""

    likes: list[list[str]]
    features: Any  # float32 [n, 5], the first column of any vectors
    labels: Any
    choosers: list[Profile]
    popular: Any  # float32 [m, items]

    @classmethod
    def of(cls, log: Log, recipe: Recipe, part: Examples, choices: Choices) -> Read:
        """Replays the log from its beginning. `part` and `choices` are in order of time."""
        twin, place = Twin(log, recipe), 0
        likes, features = [], []
        choosers, popular = [], []
        asked = [(int(t), 0, n) for n, t in enumerate(part.times)] + [
            (int(t), 1, n) for n, t in enumerate(choices.times)
        ]
        for at, kind, n in sorted(asked):
            while place < len(log.time) and log.time[place] < at:
                twin.event(place)
                place += 1
            user = int((choices.users if kind else part.users)[n])
            known = twin.profile(user)
            if kind:
                choosers.append(known)
                popular.append(np.log1p(recipe.count) / max(1.0, float(np.log1p(recipe.count.max()))))
            else:
                likes.append(known.likes)
                features.append(recipe.features(known, np.array([part.items[n]]))[0])
        return cls(likes, np.array(features), part.labels, choosers, np.array(popular, np.float32))

    def ranking(self, recipe: Recipe, items: Any) -> Any:
        """The features with the session column of this recipe's vectors."""
        sessions = np.stack([recipe.session(likes) for likes in self.likes])
        found = self.features.copy()
        found[:, 0] = (sessions * recipe.vectors[items]).sum(axis=1)
        return found

    def similar(self, recipe: Recipe) -> Any:
        """float32 [m, items]: cosines of the choosers' sessions and all items."""
        return np.stack([recipe.session(known.likes) for known in self.choosers]) @ recipe.vectors.T

    def affine(self, recipe: Recipe) -> Any:
        """float32 [m, items]: how much of what the user rated is of the item's genres."""
        return np.stack([recipe.taste(known)[1] for known in self.choosers]) @ recipe.own.T


def main() -> int:
    words = words_of(__doc__)
    words.add_argument("--redis", default="redis-server", help="the server of Redis 8 or later (redis-server)")
    words.add_argument("--seeds", type=int, default=1, help="Forebay's trainings; 0 leaves it out (1)")
    words.add_argument("--teachers", type=int, default=2, help="of each training, as `forebay train` has it (2)")
    given = words.parse_args()
    spec, history = source.spec(None, "movielens"), source.history("movielens")
    options = TrainingOptions.of(spec, teachers=given.teachers)
    until, end = history.moment(options.train_share), history.moment(options.train_share + options.validation_share)
    replayed = Replayed.of(spec, history, end, 1 << 62, QUESTIONS)
    everything = replayed.everything
    log = Log.of(history, everything)
    err.print("      tuning the recipe on the validation part", markup=False)
    rank, retrieve = tuned(log, everything, until, end)
    err.print(f"      rank {rank}; retrieve {retrieve}", markup=False)
    figures = list(_quality(log, replayed, end, rank, retrieve))
    figures += _timed(log, end, rank, retrieve, given.redis, given.repeats)
    if given.seeds:
        figures += _forebay(spec, history, replayed, options, given.seeds, given.repeats)
    figures += [Figure("recipe, lines of code", [_lines(HERE / "recipe.py")], "lines")]
    model = Path(source.__file__).parents[1] / "segments" / "movielens.toml"
    figures += [Figure("forebay, lines of its segments.toml", [_lines(model)], "lines")]
    tell(figures, as_json=given.json, more={
        "test": f"{len(replayed.part):,} impressions, {len(replayed.choices):,} choices",
        "recipe, rank": str(rank), "recipe, retrieve": str(retrieve), "seeds": given.seeds,
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
    })  # fmt: skip
    return 0


# -- the recipe


def made(log: Log, until: int, options: Tuned) -> Recipe:
    """With vectors of what lies before `until` (ms); without a server."""
    shape = len(log.users), len(log.items)
    return Recipe(None, log.items, log.genres, item_vectors(*log.liked_before(until), shape, options.dim), options)


def tuned(log: Log, everything: Examples, until: int, end: int) -> tuple[Tuned, Tuned]:
    """What is best on the validation part, for rank and for retrieve."""
    part = everything.between(until, end)
    choices = Choices.of(everything, until, end, QUESTIONS, 0)
    widest = made(log, until, replace(ATTEMPT, dim=max(DIMS)))
    read = Read.of(log, widest, part, choices)
    best_rank: tuple[float, Tuned] = (-1.0, ATTEMPT)
    best_retrieve: tuple[float, float, Tuned] = (-1.0, -1.0, ATTEMPT)
    whole = widest.vectors

    def cut(options: Tuned) -> None:
        lengths = np.linalg.norm(whole[:, : options.dim], axis=1, keepdims=True)
        widest.vectors, widest.tuned = whole[:, : options.dim] / np.where(lengths > 1e-6, lengths, 1.0), options

    def found(similar: Any, affine: Any, options: Tuned) -> tuple[float, float, Tuned]:
        ranks = choices.ranks(similar + options.popularity * read.popular + options.affinity * affine)
        return metrics.recall(ranks, 50), metrics.ndcg(ranks, 10), options

    for dim, decay, last in itertools.product(DIMS, DECAYS, LASTS):
        options = replace(ATTEMPT, dim=dim, decay=decay, last=last)
        cut(options)
        features = read.ranking(widest, part.items)
        weights = fitted(features, read.labels)
        auc = metrics.auc(features @ weights[:-1], read.labels)
        best_rank = max(best_rank, (auc, replace(options, rank=tuple(weights.tolist()))), key=lambda one: one[0])
        one = found(read.similar(widest), read.affine(widest), options)
        best_retrieve = max(best_retrieve, one, key=lambda one: one[:2])
    cut(best_retrieve[2])  # the weights of the other two, for the session that is best with some of both
    similar, affine = read.similar(widest), read.affine(widest)
    for popularity, affinity in itertools.product(POPULARITIES, AFFINITIES):
        one = found(similar, affine, replace(best_retrieve[2], popularity=popularity, affinity=affinity))
        best_retrieve = max(best_retrieve, one, key=lambda one: one[:2])
    err.print(f"      validation: AUC {best_rank[0]:.4f}, recall@50 {best_retrieve[0]:.4f}", markup=False)
    return best_rank[1], best_retrieve[2]


def fitted(features: Any, labels: Any, steps: int = 25) -> Any:
    """Weights of a logistic regression, the bias last, by Newton's method."""
    x = np.hstack([features, np.ones((len(features), 1))]).astype(float)
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(len(weights))
        weights += np.linalg.solve(hessian, x.T @ (labels - p))
    return weights


def _quality(log: Log, replayed: Replayed, end: int, rank: Tuned, retrieve: Tuned) -> Iterator[Figure]:
    ranker, retriever = made(log, end, rank), made(log, end, retrieve)
    read = Read.of(log, ranker, replayed.part, replayed.choices)
    weights = np.array(rank.rank)
    scores = read.ranking(ranker, replayed.part.items) @ weights[:-1] + weights[-1]
    found = replayed.ranking(scores.astype(np.float32))
    affine = read.affine(retriever)
    similar = read.similar(retriever)
    wanted = similar + retrieve.popularity * read.popular + retrieve.affinity * affine
    found |= replayed.retrieval(wanted.astype(np.float32))
    for name in ("auc", "gauc", "logloss", "recall@10", "recall@50", "ndcg@10", "coverage@50"):
        yield Figure(f"recipe, {name}", [found[name]], "")


def _timed(log: Log, end: int, rank: Tuned, retrieve: Tuned, command: str, repeats: int) -> list[Figure]:
    """Lookups through a real server that has had all events; [] with a word where there is none with vector sets."""
    import redis

    said = subprocess.run([command, "--version"], check=False, capture_output=True, text=True).stdout
    version = int(said.partition("v=")[2].partition(".")[0] or 0)
    if version < 8:
        err.print(
            f"      not timed: {command} is {said.strip() or 'not there'}; vector sets are of Redis 8", markup=False
        )
        return []
    ranker, retriever = made(log, end, rank), made(log, end, retrieve)
    twin, random = Twin(log, ranker), np.random.default_rng(0)
    found: dict[str, list[list[float]]] = {"rank": [], "retrieve": [], "event": []}
    with (
        tempfile.TemporaryDirectory(prefix="forebay-recipe-") as folder,
        redis_server(Path(folder), command) as (port, _),
    ):
        ranker.client = retriever.client = client = redis.Redis(port=port)
        retriever.publish()
        for first in range(0, len(log.time), 500):
            with client.pipeline(transaction=False) as batch:
                for n in range(first, min(len(log.time), first + 500)):
                    ranker.event(batch, log.users[log.user[n]], log.items[log.item[n]], log.value[n])
                batch.execute()
        for n in range(len(log.time)):
            twin.event(n)
        told = ranker.count.copy()
        ranker.refresh()
        retriever.refresh()
        assert np.array_equal(told, ranker.count), "counters of items differ from those of the events"
        _same(log, twin, ranker, retriever, random)
        for _ in range(repeats):
            users = [log.users[n] for n in random.integers(0, len(log.users), LOOKUPS)]
            asked = [[log.items[n] for n in random.integers(0, len(log.items), CANDIDATES)] for _ in users]
            found["rank"].append([_s(lambda u=u, a=a: ranker.rank(u, a)) for u, a in zip(users, asked, strict=True)])  # type: ignore[misc]
            found["retrieve"].append([_s(lambda u=u: retriever.retrieve(u)) for u in users])  # type: ignore[misc]
    return [
        Figure(f"recipe, {kind} in its service, p{q}", [float(np.percentile(one, q)) * 1e3 for one in runs], "ms")
        for kind, runs in found.items() if runs
        for q in (50, 99)
    ]  # fmt: skip


def _same(log: Log, twin: Twin, ranker: Recipe, retriever: Recipe, random: np.random.Generator) -> None:
    """Raises SystemExit where the server's lookups are not what the formulas give."""
    shared = []
    for user in random.integers(0, len(log.users), CHECKED).tolist():
        name, known = log.users[user], twin.profile(user)
        asked = [log.items[n] for n in random.integers(0, len(log.items), CANDIDATES)]
        weights = np.array(ranker.tuned.rank, np.float32)
        right = ranker.features(known, np.array([ranker.place[i] for i in asked])) @ weights[:-1] + weights[-1]
        if not np.allclose([s for _, s in ranker.rank(name, asked)], np.sort(right)[::-1][:50], atol=1e-4):
            raise SystemExit(f"rank of user {name} differs from the formulas")
        similar = retriever.vectors @ retriever.session(known.likes)
        scores = retriever.open_scores(known, similar, np.arange(len(log.items)))
        seen = {log.item[n] for n in range(len(log.time)) if log.user[n] == user}
        best = [n for n in np.argsort(-scores).tolist() if n not in seen][:50]
        shared.append(len({retriever.place[i] for i, _ in retriever.retrieve(name)} & set(best)) / 50)
    err.print(f"      of exact KNN's best 50 the server gives {np.mean(shared):.1%}", markup=False)
    if np.mean(shared) < 0.9:
        raise SystemExit("retrieve differs from the formulas")


# -- Forebay


def _forebay(
    spec: Any, history: History, replayed: Replayed, options: TrainingOptions, seeds: int, repeats: int
) -> list[Figure]:
    parts, found = Parts.of(spec, history, options), defaultdict[str, list[float]](list)
    for seed in range(seeds):
        err.print(f"      training Forebay, seed {seed}", markup=False)
        own = replace(options, seed=seed)
        material = with_teacher(Material.of(spec, parts, own), own) if own.distill else Material.of(spec, parts, own)
        bundle = train(spec, material, own)
        served = Served(bundle, replayed)
        for name, value in (replayed.ranking(served.scores()) | replayed.retrieval(served.choice_scores())).items():
            found[name].append(value)
    names = ("auc", "gauc", "logloss", "recall@10", "recall@50", "ndcg@10", "coverage@50")
    figures = [Figure(f"forebay, {name}", found[name], "") for name in names]
    users, items = len(replayed.everything.logs["user"].entities), replayed.choices.items
    with (
        tempfile.TemporaryDirectory(prefix="forebay-recipe-") as folder,
        node_of_benches(bundle, Path(folder), items=items, users=users) as node,
        Client(node.url, timeout_s=10.0) as client,
    ):
        random, taken = np.random.default_rng(0), defaultdict[str, list[list[float]]](list)
        for _ in range(repeats):
            names_of = [f"u{n}" for n in random.integers(0, users, LOOKUPS)]
            asked = [[f"i{n}" for n in random.integers(0, items, CANDIDATES)] for _ in names_of]
            taken["rank"].append(
                [_s(lambda u=u, a=a: client.rank(u, a, 50)) for u, a in zip(names_of, asked, strict=True)]
            )  # type: ignore[misc]
            taken["retrieve"].append([_s(lambda u=u: client.retrieve(u, 50)) for u in names_of])  # type: ignore[misc]
    return figures + [
        Figure(f"forebay, {kind} over HTTP, p{q}", [float(np.percentile(one, q)) * 1e3 for one in runs], "ms")
        for kind, runs in taken.items()
        for q in (50, 99)
    ]


def _s(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _lines(path: Path) -> float:
    """Lines that are neither empty nor a comment; docstrings count as comments do."""
    text = path.read_text()
    for quoted in text.split('"""')[1::2] if path.suffix == ".py" else ():
        text = text.replace(f'"""{quoted}"""', "")
    lines = [line.strip() for line in text.splitlines()]
    return float(sum(bool(line) and not line.startswith("#") for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
