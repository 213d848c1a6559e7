"""The examples on the pages run, every slot is used, and a page that asks another host for something ends the build."""

from __future__ import annotations

import logging
import re
import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

import hooks
from forebay.config import load
from forebay.events import check, decode
from forebay.segments.spec import parse_spec
from reference import readme
from reference.slots import SLOTS, filled

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docs").glob("*.md"))
NAMES = [f.name for f in FILES]
OF_SETTINGS = (
    "inspect.md",
    "settings.md",
    "delivery.md",
    "sources.md",
    "operating.md",
)  # whose toml is of forebay.toml; elsewhere it is of a spec


def _blocks(name: str, language: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_page_is_in_the_navigation_and_every_slot_on_a_page() -> None:
    """A page that nobody can find, and a table that no page has, are as good as missing."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [n for n in NAMES if n not in navigation] == []
    used = {m for f in FILES for m in re.findall(r"^\{\{ (\w+)", f.read_text(encoding="utf-8"), re.MULTILINE)}
    assert used - {"readme"} == set(SLOTS)


@pytest.mark.parametrize("name", NAMES)
def test_no_slot_is_left_on_a_page(name: str) -> None:
    """What is filled has no braces left where a slot was."""
    assert not re.search(r"^\{\{ ", filled((ROOT / "docs" / name).read_text(encoding="utf-8")), re.MULTILINE)


def test_a_slot_that_is_none_is_refused() -> None:
    """A misspelt name, and a section that the README does not have."""
    for page in ("{{ nothing }}", "{{ readme: A chapter of dreams }}"):
        with pytest.raises(KeyError):
            filled(page)


def test_a_section_of_the_readme_keeps_only_links_that_lead_somewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Links to pages and other hosts stay; of a link to a file beside the README its words stay."""
    (tmp_path / "README.md").write_text("## A\n[p](docs/p.md), [w](https://w.org), [f](CONTRIBUTING.md)\n\n## B\n")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    assert readme.section("A") == "[p](p.md), [w](https://w.org), f"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in OF_SETTINGS])
def test_every_piece_of_a_spec_on_a_page_can_be_read(name: str) -> None:
    """A block with a label is a whole spec; any other is read in place of the same tables of the spec's own example,
    whose rank is then a fusion that takes segments of any width."""
    whole = tomllib.loads(_blocks("spec.md", "toml")[0])
    whole["fusion"]["rank"] = "concat_fc"
    for block in _blocks(name, "toml"):
        given = tomllib.loads(block)
        if "label" not in given:
            given = whole | {k: whole.get(k, {}) | v for k, v in given.items()}
        parse_spec(given)


@pytest.mark.parametrize("name", OF_SETTINGS)
def test_the_settings_on_a_page_can_be_read(name: str, tmp_path: Path) -> None:
    """Its forebay.toml is one."""
    blocks = _blocks(name, "toml")
    assert blocks
    for block in blocks:
        file = tmp_path / "forebay.toml"
        file.write_text(block)
        assert str(file) in load({}, file=file, environment={})[1].values()


def test_the_events_on_the_page_are_events() -> None:
    """Each line of its JSON decodes, is acceptable, and says what would be sent."""
    lines = [line for block in _blocks("events.md", "json") for line in block.splitlines()]
    assert len({type(decode(line.encode())) for line in lines}) == 3
    for line in lines:
        event = decode(line.encode())
        check(event)
        assert msgspec.to_builtins(event) == msgspec.json.decode(line)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("own-")])
def test_the_python_on_a_page_runs(name: str, tmp_path: Path) -> None:
    """Blocks of Python run as they stand (those of own encoders and fusions are held to their contracts elsewhere)."""
    for block in _blocks(name, "python"):
        file = tmp_path / "block.py"
        file.write_text(block)
        if (remove := runpy.run_path(str(file)).get("remove")) is not None:
            remove()


def test_a_page_that_loads_from_elsewhere_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Scripts, styles and pictures of another host: a warning, which ends a strict build. Links that are followed are
    none."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    with caplog.at_level(logging.WARNING, "mkdocs"):
        hooks.on_post_page('<a href="https://example.org">x</a><link rel="icon" href="icon.png">', page=page)
        assert not caplog.records
        hooks.on_post_page('<script src="https://example.org/x.js"></script><img src="//example.org/y.png">', page=page)
    assert len(caplog.records) == 2
