"""`forebay lookup`: one entity through the request-time client, as a service would see it."""

from __future__ import annotations

import time

import msgspec

from forebay.cli.console import out, print_json, print_table, seconds
from forebay.config import Settings
from forebay.errors import UsageError
from forebay.retrieval.client import Client
from forebay.retrieval.messages import EntityResponse, RankResponse


def lookup(settings: Settings, entity: str, k: int, as_json: bool) -> None:
    """Segments with both times; for a user also the `k` best items with each segment's share."""
    side, _, name = entity.partition(":")
    if side not in ("user", "item") or not name:
        raise UsageError(f"{entity!r} is no entity", do="Write user:ID or item:ID")
    with Client(settings.server, timeout_s=5.0) as client:
        found = client.entity("user" if side == "user" else "item", name)
        ranked = client.retrieve(name, k=k, explain=True) if side == "user" else None
    if as_json:
        print_json(msgspec.to_builtins({"entity": found, "ranking": ranked}))
        return
    _show_entity(found)
    if ranked is not None:
        out.print()
        _show_ranking(ranked)


def _show_entity(found: EntityResponse) -> None:
    known = "" if found.known else "   nothing is stored: lookups use the default vectors"
    out.print(
        f"{found.side} {found.id}   generation {found.generation}   bundle {found.bundle[:12]}{known}", markup=False
    )
    now = time.time_ns() // 1_000_000
    rows = [
        (name, e.freshness.state, seconds(e.freshness.as_of, now), seconds(e.freshness.last_event, now))
        for name, e in found.segments.items()
    ]
    if rows:
        print_table(("segment", "state", "as of", "last event"), rows, right=("as of", "last event"))


def _show_ranking(ranked: RankResponse) -> None:
    names = list(ranked.segments)
    rows = [
        (place, hit.item, f"{hit.score:.3f}", *(f"{(hit.shares or {}).get(n, 0):+.2f}" for n in names))
        for place, hit in enumerate(ranked.hits, start=1)
    ]
    print_table(("", "item", "score", *names), rows, right=("", "score", *names))
