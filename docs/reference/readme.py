"""Sections of the README that a page shows, too."""

from __future__ import annotations

import re

from reference.source import ROOT

_ELSEWHERE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|page:|#)[^)]+\)")


def section(title: str) -> str:
    """The text under the README's heading `title`, its links as the site has them: those into docs/ lead to their
    pages, and of what is no page the words stay. Raises KeyError where there is no such heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise KeyError(f"README.md has no section {title!r}")
    paged = found[1].strip().replace("](docs/", "](page:")
    return _ELSEWHERE.sub(r"\1", paged).replace("](page:", "](")


def opening() -> str:
    """The demo's commands and what they print: the first block of code in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"(?:^(?: {4}.*)?\n)*^ {4}.*make demo.*\n(?:(?: {4}.*)?\n)*", text, re.MULTILINE)
    if found is None:
        raise KeyError("README.md has no block with make demo in it")
    return found[0].strip("\n")
