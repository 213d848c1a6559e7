"""The demo's last step: one user, five invented ratings, the ranking before and after, and why it moved."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from forebay.cli.console import out, print_table, seconds
from forebay.clock import now_ms
from forebay.events import Attributes
from forebay.retrieval.client import Client
from forebay.retrieval.messages import Hit, RankResponse
from forebay.segments.datasets.movielens import titles
from forebay.segments.history import History

INVENTED = 5
SHOWN, RISEN_INTO = 10, 100
RECENT_USERS, MIN_RATINGS = 30, 20  # a user with history
MIN_LEFT = 10  # films of the genre to rank
MIN_POPULAR = 10  # ratings of a film that is ranked


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
    """Of the users active last, the one whose history is shortest (five ratings weigh most in it), and the genre whose
    films stand highest in the ranking now: a plausible new interest."""
    attributes = {i.item: i.attributes for i in history.items}
    rated: dict[str, set[str]] = {}
    for event in history.behaviours:
        rated.setdefault(event.user, set()).add(event.item)
    popular = Counter(event.item for event in history.behaviours)
    recent = list(dict.fromkeys(b.user for b in reversed(history.behaviours)))[:RECENT_USERS]
    user = min((u for u in recent if len(rated[u]) >= MIN_RATINGS), key=lambda u: len(rated[u]))
    unseen = [i for i in attributes if i not in rated[user] and popular[i] >= MIN_POPULAR]
    place = {hit.item: n for n, hit in enumerate(client.rank(user, unseen, k=min(len(unseen), 1000)))}
    means: list[tuple[float, str]] = []
    for genre in sorted({g for a in attributes.values() for g in _genres(a)}):
        films = [i for i in unseen if genre in _genres(attributes[i])]
        if len(films) >= MIN_LEFT:
            means.append((sum(place.get(i, len(unseen)) for i in films) / len(films), genre))
    genre = min(means)[1]
    films = sorted((i for i in unseen if genre in _genres(attributes[i])), key=lambda i: (-popular[i], i))
    invented = films[:INVENTED]
    return Story(user, genre, invented, [i for i in unseen if i not in invented], attributes, titles())


def ranking(client: Client, story: Story) -> RankResponse:
    """The story's candidates, all of them, with what each segment adds."""
    return client.rank(story.user, story.candidates, k=min(len(story.candidates), 1000), explain=True)


def show(story: Story, before: RankResponse, after: RankResponse) -> None:
    """The two rankings side by side, each film of the second with its move and the segment that moved it."""
    old = {hit.item: (place, hit) for place, hit in enumerate(before, start=1)}
    drift = _drift(before, after)
    rows = []
    for place, (was, now) in enumerate(zip(before.hits[:SHOWN], after.hits[:SHOWN], strict=True), start=1):
        rows.append((place, _title(story, was), f"{_chance(was):.2f}", _title(story, now), f"{_chance(now):.2f}",
                     *_moved(place, now, old.get(now.item), drift)))  # fmt: skip
    print_table(("", "before", "p", "after", "p", "moved", "why"), rows, right=("", "p", "moved"))
    ranks = [
        [n for n, h in enumerate(r, start=1) if story.genre in _genres(story.attributes[h.item])]
        for r in (before, after)
    ]
    risers = sorted(
        (n - old[h.item][0], n, h) for n, h in enumerate(after.hits[:RISEN_INTO], start=1) if h.item in old
    )[:3]
    told = ", ".join(f"{_title(story, h)} {n - step} -> {n}" for step, n, h in risers if step < 0)
    out.print(f"moved most into the first {RISEN_INTO}: {told or 'nothing'}", markup=False)
    out.print(
        f"* {story.genre}: {len(ranks[0])} films, mean rank {sum(ranks[0]) / len(ranks[0]):.0f} -> "
        f"{sum(ranks[1]) / len(ranks[1]):.0f} "
        f"of {len(story.candidates):,}. Why: what a segment added to this film beyond what it added to the average "
        f"film.",
        markup=False,
    )
    clock = now_ms()
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


def _drift(before: RankResponse, after: RankResponse) -> dict[str, float]:
    """What each user segment's share grew by for the average film: it lifts all alike, and so moves none."""
    means = []
    for ranking in (before, after):
        shares = [hit.shares or {} for hit in ranking]
        means.append({name: sum(s.get(name, 0.0) for s in shares) / len(shares) for name in after.segments})
    return {name: means[1][name] - means[0][name] for name in after.segments}


def _moved(place: int, now: Hit, was: tuple[int, Hit] | None, drift: dict[str, float]) -> tuple[str, str]:
    if was is None:
        return "new", ""
    step = was[0] - place
    arrow = f"↑{step}" if step > 0 else f"↓{-step}" if step < 0 else "="
    gains = {name: share - (was[1].shares or {})[name] - drift[name] for name, share in (now.shares or {}).items()}
    name = max(gains, key=lambda n: abs(gains[n]))
    return arrow, f"{name} {gains[name]:+.2f}"


def _title(story: Story, hit: Hit) -> str:
    mark = " *" if story.genre in _genres(story.attributes[hit.item]) else ""
    return story.titles[hit.item] + mark


def _chance(hit: Hit) -> float:
    return 1 / (1 + math.exp(-hit.score))


def _genres(attributes: Attributes) -> list[str]:
    genres = attributes.get("genres", [])
    return genres if isinstance(genres, list) else []
