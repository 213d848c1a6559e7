"""Markdown tables out of values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells may hold anything but line ends."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def code(value: object) -> str:
    """`value` in the type of code; empty for an empty text. The browser may break it where a name has dots or
    dashes."""
    return f"`{value}`" if str(value) else ""


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def plain(value: str) -> str:
    """Words of the code as Markdown prints them: what it would read as a tag or as emphasis is told to stand for
    itself."""
    parts = value.split("`")
    parts[::2] = [_escaped(p) for p in parts[::2]]
    return "`".join(parts)


def _escaped(value: str) -> str:
    for sign in "\\*_[]<":
        value = value.replace(sign, f"\\{sign}")
    return value
