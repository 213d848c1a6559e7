"""The part of the page that supposes: its form, and the ranking as it would be."""

from __future__ import annotations

from forebay.retrieval.inspect.bars import Scale, legend
from forebay.retrieval.inspect.markup import Child, Markup, el, joined
from forebay.retrieval.inspect.supposed import Comparison, Move, Outcome, Supposition, WhatIf
from forebay.retrieval.inspect.views import Titles, gauge, hit_row, item_link, notice, section, table
from forebay.retrieval.inspect.words import ago

_LEAST = 0.00005  # a turn below it is written as "< 0.0001"


def part(
    user: str, what_if: WhatIf | None, lacking: str, outcome: Outcome | None, now_ms: int, titles: Titles
) -> Markup:
    """The form with what was asked, and what came of it."""
    if what_if is None:
        return section("what-if", "What if", el("p", f"Not here. {lacking}", class_="soft"))
    said = (
        "Add an event that did not happen, now, and see the ranking move. Nothing is written or sent. The first answer "
        "takes some seconds."
    )
    children: list[Child] = [el("p", said, class_="soft"), _form(user, what_if, outcome)]
    if outcome is not None:
        if outcome.error:
            children.append(notice("This cannot be said.", outcome.error, outcome.do))
        elif outcome.comparison is None:
            children.append(notice("Nothing was asked yet.", "Press the button to see the ranking move."))
        else:
            children.append(_comparison(outcome.comparison, now_ms, titles))
    return section("what-if", "What if", *children)


def _form(user: str, what_if: WhatIf, outcome: Outcome | None) -> Markup:
    asked = outcome.supposition if outcome is not None else Supposition(user, "", "", 1.0)
    actions = list(what_if.actions)
    if asked.action and asked.action not in actions:
        actions.append(asked.action)
    if actions:
        chosen = asked.action or actions[0]
        options = [el("option", action, value=action, selected=action == chosen) for action in actions]
        action = el("select", *options, name="action", id="what-action")
    else:
        action = el("input", type="text", name="action", id="what-action", value=asked.action, required=True)
    fields = (
        ("what-item", "Item", el("input", type="text", name="item", id="what-item", value=asked.item, required=True,
                                 autocomplete="off", autocapitalize="none", spellcheck="false")),
        ("what-action", "Action", action),
        ("what-value", "Value", el("input", type="number", name="value", id="what-value", value=f"{asked.value:g}",
                                   step="any", inputmode="decimal")),
    )  # fmt: skip
    return el(
        "form",
        el("input", type="hidden", name="id", value=user),
        *(el("p", el("label", title, for_=anchor), field) for anchor, title, field in fields),
        el("button", "Suppose"),
        action="/what-if", method="get", class_="suppose",
    )  # fmt: skip


def _comparison(found: Comparison, now_ms: int, titles: Titles) -> Markup:
    shares = [move.hit.shares or {} for move in found.moves]
    scale = Scale.over(shares)
    rows = [
        hit_row(place, move.hit.item, move.hit.score, share, scale, titles, _moved(place, move))
        for place, (move, share) in enumerate(zip(found.moves, shares, strict=True), start=1)
    ]
    turns = [
        (el("b", segment), "unchanged" if not turn else f"{turn:.4f}" if turn >= _LEAST else "< 0.0001", gauge(turn))
        for segment, turn in found.turned.items()
    ]
    parts: list[Child] = [
        el("h3", "How far each vector turns"),
        table(("Segment", "1 − cosine", " "), turns, right=("1 − cosine",), named="nearest turned"),
        el("h3", "The ranking with the event"),
        legend(list(shares[0])) if shares else None,
        el("ol", *rows, class_="hits moving"),
    ]
    if found.gone:
        gone = [
            joined(item_link(item, titles), f" (now {place})" if place else " (not found any more)")
            for item, place in found.gone
        ]
        listed: list[Child] = [gone[0]]
        for one in gone[1:]:
            listed += [", ", one]
        parts.append(el("p", f"No longer among the best {len(rows)}: ", *listed, ".", class_="soft"))
    parts += [el("p", sentence, class_="soft") for sentence in found.supposed.remarks]
    parts.append(_stands_on(found, now_ms))
    return el("div", *parts, class_="outcome", role="region", aria_label="What would happen")


def _moved(place: int, move: Move) -> Markup:
    """The place before, beside the new one."""
    if not move.was:
        return el("span", "new", class_="moved up")
    steps = move.was - place
    if not steps:
        return el("span", "=", class_="moved same", title="the same place", aria_label="the same place")
    way, sign = ("up", "▲") if steps > 0 else ("down", "▼")
    said = f"was {move.was}"
    return el("span", el("span", f"{sign} {abs(steps)}", aria_label=f"{abs(steps)} {way}"), " ", el("small", said),
              class_=f"moved {way}")  # fmt: skip


def _stands_on(found: Comparison, now_ms: int) -> Markup:
    supposed = found.supposed
    served = (
        "The vectors without the event are, bit for bit, those that this server has now."
        if found.served
        else "The vectors without the event are not those that this server has now: one of the two is some events "
        "ahead, or they were encoded on another kind of machine."
    )
    return el(
        "p",
        "It stands on the state of a checkpoint made ", ago(supposed.checkpoint_ms, now_ms),
        f" and the {supposed.events:,} events that the log has after it. {served} Each ranking is of the "
        f"{found.asked} items that retrieve finds with it. What the event would do to the item's own vectors is left "
        "out.",
        class_="soft",
    )  # fmt: skip
