"""Every command on a page is one: its verb and its flags are those of the parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from forebay.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.yaml"))]


def _verbs(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    for name, child in below.items():
        yield from _verbs(child, f"{path} {name}")
    if not below:
        yield path, command


VERBS = dict(_verbs(typer.main.get_command(app), "forebay"))
NOUNS = {path.rsplit(" ", 1)[0] for path in VERBS if path.count(" ") == 2}


def wrong(text: str) -> list[str]:
    """The commands of a page, in its code and its blocks, that the parser would not take."""
    text = text.replace("\\\n", " ")
    starts = ("    ", "forebay ", "$ ", "ExecStart=")
    lines = [line for line in text.splitlines() if line.startswith(starts) or "| forebay" in line]
    found = []
    for piece in [*re.findall(r"`([^`\n]+)`", text), *lines]:
        for match in re.finditer(r"(?<![\w.-])forebay ([a-z].*)", piece):
            line = re.split(r"  #| [&|(]|&&", match[1])[0]
            words = [word.strip("|,;:.") for word in line.replace("|", " ").split()]
            path = next((p for n in (2, 1) if (p := " ".join(["forebay", *words[:n]])) in VERBS), "")
            if not path and (len(words) > 1 or f"forebay {words[0]}" not in NOUNS):
                found.append(" ".join(["forebay", *words[: 2 if f"forebay {words[0]}" in NOUNS else 1]]))
            elif path:
                options = {word for p in VERBS[path].params for word in (*p.opts, *p.secondary_opts)}
                flags = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", line)
                found += [f"{path} {flag}" for flag in flags if flag not in options]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_one(page: Path) -> None:
    """A verb that was renamed, and a flag that is gone, are found wherever they stand."""
    assert wrong(page.read_text(encoding="utf-8")) == []


def test_a_command_that_is_none_is_found() -> None:
    """In words, in a block, behind a prompt and over two lines."""
    page = (
        "`forebay wok`\n\n    forebay serve --prot 1  # x\n$ forebay topics make\n    forebay train \\\n    --form x\n"
    )
    assert wrong(page) == ["forebay wok", "forebay serve --prot", "forebay topics make", "forebay train --form"]
    assert wrong("`forebay topics` and `forebay topics create --partitions 4 | cat --all`") == []
