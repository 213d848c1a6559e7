"""The pages of the site as readers get them: their slots filled, by section and by table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

from reference.slots import filled

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("src/forebay", "segments", "store", "streams", "retrieval")


@dataclass(frozen=True)
class Page:
    """One page in Markdown."""

    name: str
    text: str

    def section(self, heading: str) -> str:
        """What stands under `heading`, subsections included."""
        found = re.search(rf"^(#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert found is not None, f"{self.name} has no heading {heading!r}"
        rest = self.text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    def own(self, heading: str) -> str:
        """What stands under `heading` before its first subsection."""
        return re.split(r"^#+ ", self.section(heading), maxsplit=1, flags=re.MULTILINE)[0]

    def table(self, heading: str) -> dict[str, list[str]]:
        """The rows of the tables under `heading`, each by its first cell without the signs of code."""
        lines = re.findall(r"^\s*\| (.*) \|$", self.own(heading), re.MULTILINE)
        cells = [[c.replace("\\|", "|").replace("\\_", "_") for c in re.split(r"(?<!\\) \| ", line)] for line in lines]
        return {row[0].replace("`", "").strip("· "): row for row in cells}


Pages: TypeAlias = Callable[[str], Page]


@pytest.fixture(scope="session")
def pages() -> Pages:
    """A page by its name."""

    @cache
    def page(name: str) -> Page:
        return Page(name, filled((ROOT / "docs" / name).read_text(encoding="utf-8")))

    return page


@pytest.fixture(scope="session")
def sources() -> list[str]:
    """The text of every file of the package."""
    files = {f.resolve() for room in ROOMS for f in (ROOT / room).rglob("*.py")}
    return [f.read_text(encoding="utf-8") for f in sorted(files)]
