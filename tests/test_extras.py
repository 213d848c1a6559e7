"""The extras: what each brings is what is asked for, and what is missing is named. Without an installation; see
test_packaging."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from forebay.cli.app import app
from forebay.cli.extras import BRINGS, VERBS, missing, verb_of

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"msgspec"}  # what `forebay` without an extra brings
ASIDE = {"recbole"}  # MovieLens lies in it; no extra brings it, and its folder is named where it is missing


def _distributions(extra: str) -> set[str]:
    """Names of what an extra installs, those of the extras in it included."""
    found: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        if named := re.fullmatch(r"forebay\[(.*)\]", requirement):
            found |= set().union(*map(_distributions, named[1].split(",")))
        else:
            found.add(re.split(r"[<>=!~;\[ ]", requirement)[0])
    return found


@pytest.mark.parametrize("extra", list(BRINGS))
def test_the_table_of_extras_is_that_of_the_project(extra: str) -> None:
    """Each module in the table belongs to a distribution that the extra asks for, and none of those is forgotten. One
    folder may be of several distributions, of which the extra asks for some."""
    owners, asked = packages_distributions(), _distributions(extra)
    of_modules = [{distribution.replace("_", "-") for distribution in owners[module]} for module in BRINGS[extra]]
    assert asked <= set().union(*of_modules)
    for distributions in of_modules:
        assert distributions <= asked or (len(distributions) > 1 and distributions & asked)


def test_every_module_that_is_imported_is_brought() -> None:
    """Third-party imports of the whole tree: an unknown one would be a traceback where it is missing."""
    used: set[str] = set()
    for path in [
        p for room in ("src/forebay", "streams", "segments", "store", "retrieval") for p in (ROOT / room).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add((node.module or "").partition(".")[0])
    foreign = used - sys.stdlib_module_names - {"forebay"} - OWN - ASIDE
    assert foreign <= set().union(*BRINGS.values()), foreign - set().union(*BRINGS.values())


def test_every_verb_has_its_extra() -> None:
    """As the command line declares them, and each extra is one of the project."""
    verbs = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    assert verbs | {g.name for g in app.registered_groups} == set(VERBS)
    assert {e for extras in VERBS.values() for e in extras.split(",")} <= set(PROJECT["optional-dependencies"])


def test_the_extra_named_brings_what_is_missing() -> None:
    """The verb's own where that helps, the smallest that does where not, and nothing for a stranger's module."""
    for verb in VERBS:
        for module in set().union(*BRINGS.values()):
            told = missing(f"{module}.part", verb)
            assert told is not None and told.exit_code == 2
            assert told.extra == "all" or any(module in BRINGS[e] for e in told.extra.split(",")), (verb, module)
    told = missing("numba", "publish")  # its own extras do not bring it
    assert told is not None and str(told) == "numba is not installed. Run: pip install 'forebay[server]'"
    assert missing("pandas", "train") is None and missing(None, "train") is None
    assert verb_of(["--version"]) == "" and verb_of(["-h", "topics", "list"]) == "topics"
