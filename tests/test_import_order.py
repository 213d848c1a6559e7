"""Folder order is dependency order, and nothing reads a pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    p for room in ("src/forebay", "segments", "store", "streams", "retrieval") for p in (ROOT / room).rglob("*.py")
]


def test_no_room_imports_what_stands_above_it() -> None:
    """import-linter's contracts hold: cli -> streams | retrieval -> store -> segments -> events -> errors."""
    pytest.importorskip("importlinter", reason="make lint installs it")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_nothing_can_run_code_that_it_reads() -> None:
    """No pickle, no torch.load, no allow_pickle, anywhere in the package."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not {"pickle", "cPickle", "shelve", "marshal"} & set(names), path
            if isinstance(node, ast.Call):
                assert not any(k.arg in ("allow_pickle", "weights_only") for k in node.keywords), path
                assert ast.unparse(node.func) != "torch.load", path


def test_the_store_is_never_read_by_iterators_that_end_silently() -> None:
    """Rdict.items/keys/values stop at a corrupt block without a word: only store/rocks.py opens RocksDB at all, and
    there WholeScan alone asks for items, which looks behind their end."""
    users = [p.name for p in SOURCES if "Rdict" in p.read_text()]
    assert users == ["rocks.py"]
    tree = ast.parse((ROOT / "store" / "rocks.py").read_text())
    nouns = [node for node in tree.body if getattr(node, "name", "") != "WholeScan"]
    assert len(nouns) == len(tree.body) - 1
    calls = (n for noun in nouns for n in ast.walk(noun) if isinstance(n, ast.Call))
    called = {n.func.attr for n in calls if isinstance(n.func, ast.Attribute)}
    assert not called & {"items", "keys", "values"}
