"""HTML out of values. Every text is escaped here and nowhere else: what is no Markup is a text."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

Child: TypeAlias = "str | int | Children | None"
Children: TypeAlias = "list[Child] | tuple[Child, ...]"
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "rect", "line"})


class Markup(str):
    """HTML as it is to be sent."""

    __slots__ = ()


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element. A child that is a str and no Markup is escaped, None is left out, and a sequence stands for its
    members.

    In an attribute's name a last `_` is dropped and another one is a `-`. True is the name alone; None and False leave
    it out. `tag` and the names are the caller's own words and never somebody's text.
    """
    opened = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        written = name.rstrip("_").replace("_", "-")
        opened.append(written if value is True else f'{written}="{escape(str(value))}"')
    if tag in _VOID:
        return Markup(f"<{' '.join(opened)}>" if tag not in ("rect", "line") else f"<{' '.join(opened)}/>")
    return Markup(f"<{' '.join(opened)}>{joined(*children)}</{tag}>")


def joined(*children: Child) -> Markup:
    """The children one after the other."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, (list, tuple)):
            parts.append(str(joined(*child)))
        else:
            parts.append(escape(str(child)))
    return Markup("".join(parts))


def document(title: str, body: Markup, *, style: str, icon: str) -> bytes:
    """A whole page with one stylesheet and one icon, both at paths of this server."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("title", title),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href=icon, type="image/svg+xml"),
        el("link", rel="stylesheet", href=style),
    )
    page = "<!doctype html>" + el("html", head, body, lang="en") + "\n"
    return page.encode("utf-8", "replace")
