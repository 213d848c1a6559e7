"""The parts of the page: each takes what is known and returns its HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlencode

from forebay.retrieval.inspect.bars import Scale, bar, legend, numbers, signed
from forebay.retrieval.inspect.looking import Neighbour, Seen, probability
from forebay.retrieval.inspect.markup import Child, Markup, el, joined
from forebay.retrieval.inspect.words import ago, bound, clock_time, count, length, name
from forebay.retrieval.messages import EntityResponse, RankResponse, Readiness
from forebay.segments.spec import SIDES, SegmentSpec, Side

Titles: TypeAlias = Mapping[str, str]  # what people call items, by id

MEANINGS = {
    "fresh": "its vector is as current as the spec asks for",
    "late": "its vector is older than the spec's bound, and used",
    "expired": "its vector is too old: the default vector is used instead",
    "missing": "nothing is known: the default vector is used",
}


@dataclass(frozen=True)
class Standing:
    """The server at `now_ms`."""

    generation: str
    bundle: str
    rows: Mapping[Side, int]
    readiness: Readiness
    as_of_ms: int
    now_ms: int


def link(side: Side, entity: str) -> str:
    """Where an entity's page is."""
    return f"/?{urlencode({'side': side, 'id': entity}, errors='replace')}"


def item_link(item: str, titles: Titles, class_: str | None = None) -> Markup:
    """A link to an item's page: its title, with the id behind it where there is one."""
    title = titles.get(item)
    called = joined(el("bdi", title), el("small", " ", name(item))) if title else name(item)
    return el("a", called, href=link("item", item), class_=class_)


def header(standing: Standing, side: Side, entity: str) -> Markup:
    """The search, which keeps what was searched for, and the state of the server in a line."""
    return el(
        "header",
        el("a", "Skip to the content", href="#content", class_="skip"),
        el(
            "div",
            el(
                "a", el("img", src="/inspect.svg", alt="", width="28", height="28"), "Forebay", href="/", class_="brand"
            ),
            search(side, entity),
            class_="top",
        ),
        _strip(standing),
    )


def search(side: Side, entity: str) -> Markup:
    """A form that works without a script."""
    sides = [
        el("label", el("input", type="radio", name="side", value=one, checked=one == side), el("span", one))
        for one in SIDES
    ]
    return el(
        "form",
        el("fieldset", el("legend", "Side", class_="unseen"), *sides, class_="sides"),
        el("label", "Id", for_="id", class_="unseen"),
        el(
            "input",
            type="search", name="id", id="id", value=entity, placeholder="Id of a user or an item", required=True,
            autocomplete="off", autocapitalize="none", spellcheck="false", autofocus=not entity,
        ),
        el("button", "Look up"),
        role="search", action="/", method="get", class_="search",
    )  # fmt: skip


def _strip(standing: Standing) -> Markup:
    readiness = standing.readiness
    lag = NONE_LAG if readiness.lag_ms is None else length(readiness.lag_ms)
    state = "ready" if readiness.ready else "answers, not ready" if readiness.answers else "not ready"
    facts: list[tuple[str, Child]] = [
        ("Server", el("span", state, class_="state fresh" if readiness.ready else "state late")),
        ("Generation", el("b", standing.generation)),
        ("Bundle", el("code", standing.bundle[:12])),
        ("Behind the log", lag),
        ("Holds", joined(count(standing.rows["user"], "users"), ", ", count(standing.rows["item"], "items"))),
        ("Read at", clock_time(standing.now_ms)),
    ]
    told = el("dl", *(el("div", el("dt", title), el("dd", value)) for title, value in facts), class_="strip")
    return joined(told, el("p", readiness.reason, class_="notice") if readiness.reason else None)


NONE_LAG = "not known"


def overview(specs: Mapping[Side, Sequence[SegmentSpec]], best: RankResponse | None, titles: Titles) -> Markup:
    """What the page shows before anything was searched for: the model's segments, and items to begin with."""
    rows = [
        (
            spec.side, el("b", spec.name), spec.encoder.kind.replace("_", " "), f"{spec.dim}",
            bound(spec.late_after_ms), bound(spec.expires_after_ms),
        )
        for side in SIDES
        for spec in specs[side]
    ]  # fmt: skip
    columns = ("Side", "Segment", "Encoder", "Dimensions", "Late after", "Expires after")
    parts: list[Child] = [
        el("h1", "What this server knows"),
        el("p", "Search for a user or an item to see how current its vectors are and what they do to a score.",
           class_="lead"),
    ]  # fmt: skip
    if best is not None and best.hits:
        items = [el("li", item_link(hit.item, titles)) for hit in best.hits]
        parts.append(
            section(
                "begin",
                "Items to begin with",
                el("p", "What retrieve finds for a user of whom nothing is known.", class_="soft"),
                el("ol", *items, class_="pills"),
            )
        )
    parts.append(
        section(
            "segments",
            "Segments of the bundle",
            table(
                columns, rows, right=("Dimensions", "Late after", "Expires after"), small=("Encoder", "Expires after")
            ),
        )
    )
    return joined(*parts)


def entity_head(found: EntityResponse, titles: Titles) -> Markup:
    """Its name, and where its row comes from."""
    partition = None if found.partition is None else f"Partition {found.partition} of the {found.side} side."
    unknown = f"Nothing is stored of this {found.side} here: lookups use the default vectors."
    title = titles.get(found.id) if found.side == "item" else None
    return joined(
        el(
            "h1",
            el("small", found.side),
            " ",
            el("bdi", title) if title else None,
            " " if title else None,
            el("small", name(found.id)) if title else name(found.id),
        ),
        el("p", partition if found.known else unknown, class_="soft" if found.known else "notice"),
    )


def segments(found: EntityResponse, specs: Sequence[SegmentSpec], now_ms: int) -> Markup | None:
    """Each segment with its state and both times."""
    if not found.known:
        return None
    rows = []
    for spec in specs:
        fresh = found.segments[spec.name].freshness
        state = el("span", fresh.state, class_=f"state {fresh.state}", title=MEANINGS[fresh.state])
        rows.append(
            (el("b", spec.name), state, ago(fresh.as_of, now_ms), ago(fresh.last_event, now_ms),
             bound(spec.late_after_ms), bound(spec.expires_after_ms))
        )  # fmt: skip
    columns = ("Segment", "State", "As of", "Last event", "Late after", "Expires after")
    said = "As of: all that the log took up to then is in the vector. Last event: when the newest event in it happened."
    return section(
        "segments", "Segments", table(columns, rows, right=columns[2:], small=columns[4:]), el("p", said, class_="soft")
    )


def ranking(seen: Seen, titles: Titles, heading: str = "Ranking") -> Markup | None:
    """The best items for a user, each with its score and what each segment adds to it."""
    if seen.ranked is None:
        return None
    if not seen.ranked.hits:
        return section("ranking", heading, el("p", "No item is stored here.", class_="soft"))
    names = list(seen.ranked.segments)
    shares = [hit.shares or {} for hit in seen.ranked.hits]
    scale = Scale.over(shares)
    rows = [
        hit_row(place, hit.item, hit.score, share, scale, titles)
        for place, (hit, share) in enumerate(zip(seen.ranked.hits, shares, strict=True), start=1)
    ]
    said = (
        f"The best {len(rows)} of the {seen.asked} items that retrieve finds, ordered by rank. In bold the probability "
        "of the label, beside it the logit; a bar shows what each segment adds to the logit, or takes from it."
    )
    return section("ranking", heading, el("p", said, class_="soft"), legend(names), el("ol", *rows, class_="hits"))


def hit_row(
    place: int, item: str, score: float, shares: Mapping[str, float], scale: Scale, titles: Titles, moved: Child = None
) -> Markup:
    """One hit; `moved` says how its place changed."""
    return el(
        "li",
        el("span", str(place), class_="place"),
        item_link(item, titles, "item"),
        moved,
        el(
            "span",
            el("b", f"{probability(score):.3f}", title="probability of the label"),
            el("span", signed(score), title="logit"),
            class_="score",
        ),
        bar(shares, scale),
        numbers(shares),
    )


def nearest(found: Sequence[Neighbour] | None, titles: Titles) -> Markup | None:
    """Items like this one."""
    if found is None:
        return None
    rows = [
        (str(place), item_link(one.item, titles), signed(one.cosine), gauge(one.cosine))
        for place, one in enumerate(found, start=1)
    ]
    said = "By the cosine of their vectors, over the segments that the fusion for retrieve reads."
    body = (
        table(("", "Item", "Cosine", " "), rows, right=("", "Cosine"), named="nearest")
        if rows
        else el("p", "No other item is stored here.", class_="soft")
    )
    return section("nearest", "Nearest items", el("p", said, class_="soft"), body)


def gauge(part: float) -> Markup:
    """A number from 0 to 1 as a bar."""
    width = f"{100 * min(1.0, max(0.0, part)):.1f}%"
    return el("svg", el("rect", x="0", width=width, height="100%", class_="s0"), class_="gauge", aria_hidden="true")


def section(anchor: str, title: str, *children: Child) -> Markup:
    """One part with its heading."""
    return el("section", el("h2", title, id=f"{anchor}-title"), *children, id=anchor, aria_labelledby=f"{anchor}-title")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    right: Sequence[str] = (),
    small: Sequence[str] = (),
    named: str = "",
) -> Markup:
    """Columns of `right` are numbers, and those of `small` are left out on a narrow screen."""
    kinds = [" ".join(k for k, of in (("num", right), ("wide", small)) if c in of) or None for c in columns]
    head = el("tr", *(el("th", c, scope="col", class_=k) for c, k in zip(columns, kinds, strict=True)))
    body = [el("tr", *(el("td", cell, class_=k) for cell, k in zip(row, kinds, strict=True))) for row in rows]
    return el("div", el("table", el("thead", head), el("tbody", *body), class_=named or None), class_="scroll")


def notice(title: str, what: str, do: str = "") -> Markup:
    """What went otherwise, and the remedy."""
    return el("p", el("b", f"{title} "), f"{what.rstrip('.')}.", f" {do.rstrip('.')}." if do else None, class_="notice")
