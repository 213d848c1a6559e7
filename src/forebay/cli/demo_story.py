"""The demo's last step: one user, five invented ratings, the ranking before and after, and why it moved."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from forebay.cli.console import out, print_table, seconds
from forebay.events import Attributes
from forebay.retrieval.client import Client
from forebay.retrieval.messages import Hit, RankResponse
from forebay.segments.history import History
from forebay.segments.movielens import titles

INVENTED = 5
SHOWN = 8
MIN_RATINGS, MIN_LEFT = 20, 15  # a user with history; a genre with films left to recommend


@dataclass(frozen=True)
class Story:
    """A user, the films that the user is made to like, and those that are ranked before and after."""

    user: str
    genre: str
    invented: list[str]
    candidates: list[str]
    attributes: dict[str, Attributes]
    titles: dict[str, str]


def choose(client: Client, history: History) -> Story:
    """The user with history whose top of the ranking has least of a genre that there is enough of; ties by id."""
    attributes = {i.item: i.attributes for i in history.items}
    rated: dict[str, set[str]] = {}
    for event in history.behaviours:
        rated.setdefault(event.user, set()).add(event.item)
    popular = Counter(event.item for event in history.behaviours)
    recent = list(dict.fromkeys(b.user for b in reversed(history.behaviours)))
    user = next(u for u in recent if len(rated[u]) >= MIN_RATINGS)
    unseen = [i for i in attributes if i not in rated[user]]
    top = {hit.item for hit in client.rank(user, unseen, k=50)}
    best: tuple[int, str, list[str]] = (1 << 30, "", [])
    for genre in sorted({g for a in attributes.values() for g in _genres(a)}):
        films = sorted((i for i in unseen if genre in _genres(attributes[i])), key=lambda i: (-popular[i], i))
        if len(films) >= MIN_LEFT:
            best = min(best, (sum(f in top for f in films), genre, films))
    invented = best[2][:INVENTED]
    candidates = [i for i in unseen if i not in invented]
    return Story(user, best[1], invented, candidates, attributes, titles())


def ranking(client: Client, story: Story) -> RankResponse:
    """The story's candidates, all of them, with what each segment adds."""
    return client.rank(story.user, story.candidates, k=min(len(story.candidates), 1000), explain=True)


def show(story: Story, before: RankResponse, after: RankResponse) -> None:
    """The two rankings side by side; each film of the second with the segment that moved it most."""
    old = {hit.item: hit for hit in before}
    rows = []
    for place in range(SHOWN):
        was, now = before.hits[place], after.hits[place]
        rows.append(
            (
                place + 1, _title(story, was), f"{_chance(was):.2f}", _title(story, now), f"{_chance(now):.2f}",
                _why(now, old.get(now.item)),
            )
        )  # fmt: skip
    print_table(("", "before", "p", "after", "p", "why"), rows, right=("", "p"))
    clock = time.time_ns() // 1_000_000
    parts = [
        f"{name} {seconds(f.as_of, clock)} / {seconds(f.last_event, clock)}"
        for name, f in [*after.segments.items(), *((f"item {n}", f) for n, f in after.item_segments.items())]
    ]
    out.print(
        "segments (as of / last event): " + " · ".join(parts) + f"     generation {after.generation}", markup=False
    )


def as_data(story: Story, before: RankResponse, after: RankResponse) -> dict[str, Any]:
    """The same for programs."""
    return {
        "user": story.user,
        "genre": story.genre,
        "invented": [story.titles[i] for i in story.invented],
        "before": [{"item": h.item, "title": story.titles[h.item], "p": _chance(h)} for h in before.hits[:SHOWN]],
        "after": [{"item": h.item, "title": story.titles[h.item], "p": _chance(h)} for h in after.hits[:SHOWN]],
    }


def _why(now: Hit, was: Hit | None) -> str:
    if was is None or now.shares is None or was.shares is None:
        return "new"
    moved = {name: share - was.shares[name] for name, share in now.shares.items()}
    name = max(moved, key=lambda n: moved[n])
    return f"{name} {moved[name]:+.2f}"


def _title(story: Story, hit: Hit) -> str:
    mark = " *" if story.genre in _genres(story.attributes[hit.item]) else ""
    return story.titles[hit.item][:36] + mark


def _chance(hit: Hit) -> float:
    return 1 / (1 + math.exp(-hit.score))


def _genres(attributes: Attributes) -> list[str]:
    genres = attributes.get("genres", [])
    return genres if isinstance(genres, list) else []
