"""The recommender that Redis' own guide describes: a session vector, affinity counters by genre, and filtered KNN.

What is counted as its lines of code is this file. Events are written as they come, in one round trip; a lookup reads
the user's state in one, and its candidates by VSIM of a vector set (Redis 8) where they are not given. Item vectors are
made by a nightly job and kept in the service's memory, which is sooner than fetching 1,000 of them for each lookup.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT, PRIOR = 100, 5.0  # likes and ratings kept of a user; what counters by genre are shrunk with


@dataclass(frozen=True)
class Tuned:
    """Chosen on the validation part. `rank` are the weights of the features, the bias last."""

    dim: int = 64
    decay: float = 0.9  # of a like, for each that came after it
    last: int = 30
    popularity: float = 0.05
    affinity: float = 0.0
    considered: int = 500  # of KNN, before affinity and popularity have their say
    rank: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


@dataclass
class Profile:
    """What Redis holds of a user: the last likes, newest first, count and sum of ratings by genre, and of all."""

    likes: list[str]
    counts: Mapping[str, float]
    sums: Mapping[str, float]


def item_vectors(users: NDArray[Any], items: NDArray[Any], shape: tuple[int, int], dim: int) -> NDArray[np.float32]:
    """The nightly job: float32 [items, dim], of unit length, from who liked what. Positive pointwise mutual information
    of items that the same users like, cut to its largest singular values. Items that nobody liked have zeros."""
    liked = np.zeros(shape, np.float32)
    liked[users, items] = 1
    liked /= np.sqrt(np.maximum(1, liked.sum(axis=1, keepdims=True)))  # who likes everything says less of each
    both = liked.T @ liked
    own = both.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(both * both.sum() / (own * own.T))
    information = np.maximum(np.nan_to_num(information, neginf=0.0), 0.0)
    left, values, _ = np.linalg.svd(information, hermitian=True)
    vectors = left[:, :dim] * np.sqrt(values[:dim])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 1e-6, lengths, 1.0), np.float32)


class Recipe:
    """One client of a Redis server; `vectors` float32 [items, dim] in the order of `items`, `genres` of each."""

    def __init__(
        self,
        client: Any,
        items: Sequence[str],
        genres: Sequence[Sequence[str]],
        vectors: NDArray[np.float32],
        tuned: Tuned,
    ) -> None:
        self.client, self.items, self.vectors, self.tuned = client, list(items), vectors, tuned
        self.place = {item: n for n, item in enumerate(items)}
        names = sorted({genre for own in genres for genre in own})
        self.genre = {genre: n for n, genre in enumerate(names)}
        self.own = np.zeros((len(self.items), len(names)), np.float32)
        for n, item in enumerate(genres):
            self.own[n, [self.genre[genre] for genre in item]] = 1 / max(1, len(item))
        # Counters of items are read once a second by a thread of the service; here `refresh` does it.
        self.count, self.sum = np.zeros(len(self.items)), np.zeros(len(self.items))
        self.total = Counter[str]()

    def publish(self) -> None:
        """The item vectors into Redis, after the nightly job."""
        with self.client.pipeline(transaction=False) as batch:
            for item, vector in zip(self.items, self.vectors, strict=True):
                batch.execute_command("VADD", "items", "FP32", vector.tobytes(), item, "Q8")
            batch.execute()

    def event(self, batch: Any, user: str, item: str, value: float) -> None:
        """One rating into a pipeline."""
        if value >= 4:
            batch.lpush(f"likes:{user}", item)
            batch.ltrim(f"likes:{user}", 0, KEPT - 1)
        for genre, n in self.genre.items():
            if self.own[self.place[item], n]:
                batch.hincrbyfloat(f"count:{user}", genre, 1)
                batch.hincrbyfloat(f"sum:{user}", genre, value)
        batch.hincrbyfloat(f"count:{user}", "all", 1)
        batch.hincrbyfloat(f"sum:{user}", "all", value)
        batch.hincrbyfloat("item:count", item, 1)
        batch.hincrbyfloat("item:sum", item, value)
        batch.sadd(f"seen:{user}", item)

    def profile(self, user: str) -> Profile:
        """One round trip."""
        with self.client.pipeline(transaction=False) as batch:
            batch.lrange(f"likes:{user}", 0, self.tuned.last - 1)
            batch.hgetall(f"count:{user}")
            batch.hgetall(f"sum:{user}")
            likes, counts, sums = batch.execute()
        return Profile([one.decode() for one in likes], _numbers(counts), _numbers(sums))

    def refresh(self) -> None:
        """Counters of all items."""
        for name, into in (("item:count", self.count), ("item:sum", self.sum)):
            for item, value in self.client.hgetall(name).items():
                into[self.place[item.decode()]] = float(value)

    def session(self, likes: Sequence[str]) -> NDArray[np.float32]:
        """Decayed mean of the last likes' vectors, of unit length; zeros without any."""
        places = [self.place[item] for item in likes[: self.tuned.last]]
        weights = self.tuned.decay ** np.arange(len(places), dtype=np.float32)
        mean = weights @ self.vectors[places] if places else np.zeros(self.vectors.shape[1], np.float32)
        length = float(np.linalg.norm(mean))
        return np.asarray(mean / length if length else mean, np.float32)

    def taste(self, known: Profile) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """By genre: shrunk deviation of the user's mean there, share of what the user rated; and the user's mean."""
        overall = (known.sums.get("all", 0.0) + 3.5 * PRIOR) / (known.counts.get("all", 0.0) + PRIOR)
        deviation, share = np.zeros(len(self.genre), np.float32), np.zeros(len(self.genre), np.float32)
        for genre, count in known.counts.items():
            if genre != "all":
                n = self.genre[genre]
                deviation[n] = (known.sums[genre] - overall * count) / (count + PRIOR)
                share[n] = count / known.counts["all"]
        return deviation, share, overall

    def features(self, known: Profile, places: NDArray[Any]) -> NDArray[np.float32]:
        """float32 [n, 5] of a user and items: session, affinity, the item's mean and count, the user's mean."""
        deviation, _, overall = self.taste(known)
        count, own = self.count[places], self.own[places]
        mean = (self.sum[places] + 3.5 * PRIOR) / (count + PRIOR)
        similar = self.vectors[places] @ self.session(known.likes)
        columns = (similar, own @ deviation, mean, np.log1p(count), np.full(len(places), overall))
        return np.stack(columns, axis=1).astype(np.float32)

    def rank(self, user: str, candidates: Sequence[str], k: int = 50) -> list[tuple[str, float]]:
        """The best k of the candidates."""
        places = np.array([self.place[item] for item in candidates])
        weights = np.array(self.tuned.rank, np.float32)
        scores = self.features(self.profile(user), places) @ weights[:-1] + weights[-1]
        best = np.argsort(-scores, kind="stable")[:k]
        return [(candidates[n], float(scores[n])) for n in best.tolist()]

    def open_scores(self, known: Profile, similar: NDArray[np.float32], places: NDArray[Any]) -> NDArray[np.float32]:
        """What KNN proposed, with the say of popularity and of the genres that the user watches."""
        _, share, _ = self.taste(known)
        popular = np.log1p(self.count[places]) / max(1.0, math.log1p(float(self.count.max(initial=0))))
        return np.asarray(similar + self.tuned.popularity * popular + self.tuned.affinity * (self.own[places] @ share))

    def retrieve(self, user: str, k: int = 50) -> list[tuple[str, float]]:
        """The best k of all items that the user has not had: KNN by the session vector, then the other two."""
        known = self.profile(user)
        session = self.session(known.likes)
        if not session.any():
            places, similar = np.arange(len(self.items)), np.zeros(len(self.items), np.float32)
        else:
            # A vector set gives (1 + cosine) / 2.
            asked = ("VSIM", "items", "FP32", session.tobytes(), "WITHSCORES", "COUNT", self.tuned.considered)
            found = self.client.execute_command(*asked, "EF", self.tuned.considered)
            pairs = list(found.items()) if isinstance(found, dict) else list(zip(found[::2], found[1::2], strict=True))
            places = np.array([self.place[item.decode()] for item, _ in pairs])
            similar = np.array([2 * float(score) - 1 for _, score in pairs], np.float32)
        seen = {self.place[item.decode()] for item in self.client.smembers(f"seen:{user}")}
        scores = self.open_scores(known, similar, places)
        best = [n for n in np.argsort(-scores, kind="stable").tolist() if places[n] not in seen][:k]
        return [(self.items[places[n]], float(scores[n])) for n in best]


def _numbers(found: Mapping[bytes, bytes]) -> dict[str, float]:
    return {name.decode(): float(value) for name, value in found.items()}
