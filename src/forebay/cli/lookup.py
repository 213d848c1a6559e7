"""`forebay lookup`: one entity through the request-time client, as a service would see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from forebay.cli.asking import client as asking
from forebay.cli.console import out, print_json, print_table, seconds
from forebay.clock import now_ms
from forebay.config import Settings
from forebay.errors import UsageError
from forebay.retrieval.messages import EntityResponse, RankResponse

USES = ("rank", "retrieve")  # a client installs no segments/, where a spec's uses are


@dataclass(frozen=True)
class LookupFlags:
    """`k` items for a user: the best of `candidates` that retrieval found, by `rank`, or those of `retrieve` itself.
    Each of `boost` is CONDITION=WEIGHT."""

    k: int = 10
    use: str = "rank"
    candidates: int = 200
    filter: str = ""
    boost: tuple[str, ...] = ()
    exclude_seen: bool = False

    def boosts(self) -> dict[str, float]:
        """As requests have them. Raises UsageError."""
        found = {}
        for text in self.boost:
            condition, _, weight = text.rpartition("=")
            try:
                found[condition.strip()] = float(weight)
            except ValueError:
                raise UsageError(
                    f"{text!r} is no boost", do="Write it as CONDITION=WEIGHT: --boost 'year >= 1990=0.2'"
                ) from None
        return found


def lookup(settings: Settings, entity: str, flags: LookupFlags, as_json: bool) -> None:
    """Segments with both times; for a user also the best items with each segment's share, by the use that is named."""
    side, _, name = entity.partition(":")
    if side not in ("user", "item") or not name:
        raise UsageError(f"{entity!r} is no entity", do="Write user:ID or item:ID")
    if flags.use not in USES:
        raise UsageError(f"no use {flags.use!r}", do=f"Name one with --use: {' or '.join(USES)}")
    boosts = flags.boosts()
    ranked: RankResponse | None = None
    asked = 0
    with asking(settings, timeout_s=5.0) as client:
        found = client.entity("user" if side == "user" else "item", name)
        if side == "user" and flags.use == "retrieve":
            ranked = client.retrieve(
                name, flags.k, filter=flags.filter, boost=boosts, exclude_seen=flags.exclude_seen, explain=True
            )
        elif side == "user":
            # One generation for both: a flip between them would rank what another one found.
            first = client.retrieve(
                name, max(flags.k, flags.candidates), filter=flags.filter, exclude_seen=flags.exclude_seen,
                generation=found.generation,
            )  # fmt: skip
            asked = len(first.hits)
            items = [hit.item for hit in first.hits]
            ranked = client.rank(
                name, items, flags.k, filter=flags.filter, boost=boosts, exclude_seen=flags.exclude_seen,
                generation=found.generation, explain=True,
            )  # fmt: skip
    if as_json:
        print_json(_plain(found, ranked, flags.use, asked))
        return
    _show_entity(found)
    if ranked is not None:
        out.print()
        _show_ranking(ranked, flags.use, asked)


def _plain(found: EntityResponse, ranked: RankResponse | None, use: str, asked: int) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.to_builtins({"entity": found, "ranking": ranked})
    if ranked is None:
        return answer
    answer |= {"use": use, "scores": "logits"}
    if use == "rank":
        answer["candidates"] = asked
        for hit in answer["ranking"]["hits"]:
            hit["probability"] = _probability(hit["score"])
    return answer


def _probability(logit: float) -> float:
    """Of the label, without an overflow at either end."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _show_entity(found: EntityResponse) -> None:
    known = "" if found.known else "   nothing is stored: lookups use the default vectors"
    out.print(
        f"{found.side} {found.id}   generation {found.generation}   bundle {found.bundle[:12]}{known}", markup=False
    )
    now = now_ms()
    rows = [
        (name, e.freshness.state, seconds(e.freshness.as_of, now), seconds(e.freshness.last_event, now))
        for name, e in found.segments.items()
    ]
    if rows:
        print_table(("segment", "state", "as of", "last event"), rows, right=("as of", "last event"))


def _show_ranking(ranked: RankResponse, use: str, asked: int) -> None:
    names = [*ranked.segments, *(["boost"] if any("boost" in (hit.shares or {}) for hit in ranked.hits) else [])]
    by_rank = use == "rank"
    if by_rank:
        out.print(
            f"rank of the {asked} items that retrieve found; p is the probability of the label, a segment's share is "
            f"in logits"
        )
    else:
        out.print(
            "retrieve of all items; scores are logits of one item against all others: their order counts, no "
            "probabilities"
        )
    rows = [
        (
            place, hit.item, *((f"{_probability(hit.score):.3f}",) if by_rank else ()), f"{hit.score:.3f}",
            *(f"{(hit.shares or {}).get(n, 0):+.2f}" for n in names),
        )
        for place, hit in enumerate(ranked.hits, start=1)
    ]  # fmt: skip
    numbers = ("p", "logit") if by_rank else ("logit",)
    print_table(("", "item", *numbers, *names), rows, right=("", *numbers, *names))
