"""One pass over a shared table beside a writer in another process: every score is that of one version of its own row.

The claim is made a second time with the line of the protocol taken out that it rests on, and then it fails.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebay.arrays import Floats, Ints
from forebay.segments.fusions.joined import HIDDEN, NO_FLOATS, NO_MEETS, NO_ROWS, Joined
from forebay.segments.state.ids import hash_ids
from forebay.store import onepass, rowkernels, tablereader
from forebay.store.onepass import Passed
from forebay.store.reading import NO_BOOST
from forebay.store.rowkernels import FOUND
from forebay.store.tablereader import TableReader

from .tablechild import ENTITIES, IDENTITY, SMALL, ids_of
from .test_hammer import NO_HASH, NO_SECOND_LOOK, SEEN_S, Child, child  # noqa: F401 - a fixture

SCORES, VERSIONS = 300_000, 300  # that are looked at beside the writer
_SEGMENTS, _HALF = 2, 128
_NEVER = np.zeros(_SEGMENTS, np.int64)  # no segment expires
# relu(half) · 1: the sum of the half, which is one number over and over.
_SUM = Joined(
    HIDDEN, np.zeros(_HALF, np.float32), np.ones(_HALF, np.float32), np.float32(0), NO_FLOATS, NO_MEETS, NO_FLOATS,
    NO_ROWS,
)  # fmt: skip
_NUMBERS = np.arange(ENTITIES)
_HASHES = hash_ids(ids_of(_NUMBERS))
_GONE = np.zeros(ENTITIES, np.bool_)


def _by_halves(reader: TableReader) -> Passed:
    passed = reader.best_by_halves(
        _HASHES, _GONE, NO_BOOST, ENTITIES, _NEVER, _SUM, np.zeros(_HALF, np.float32)
    )  # fmt: skip
    assert passed is not None
    return passed


def _by_dots(reader: TableReader) -> Passed:
    query = np.ones(IDENTITY.layout.codec.dim, np.float32)
    return reader.best_by_dots(
        _HASHES, _GONE, NO_BOOST, ENTITIES, _NEVER, query, np.zeros(_SEGMENTS, np.float32), np.float32(0)
    )  # type: ignore[return-value]


def _half_of(versions: Ints) -> Floats:
    return (versions % 1000 * _HALF).astype(np.float32)


def _dot_of(versions: Ints) -> Floats:
    codes = (versions * 7 + _NUMBERS) % 127
    return (codes * _NUMBERS * IDENTITY.layout.codec.dim).astype(np.float32)


WAYS = {"halves": (_by_halves, _half_of), "dots": (_by_dots, _dot_of)}


def _looked_at(folder: Path, way: str, enough: Callable[[int, int, int], bool]) -> tuple[int, int, int]:
    """How many scores were looked at, of how many versions, and how many are not that of their version; until it is
    enough, or for SEEN_S."""
    run, score_of = WAYS[way]
    reader, seen, versions, wrong = TableReader(folder, IDENTITY, SMALL), 0, set[int](), 0
    run(reader)  # it compiles changed kernels, which takes half a minute beside other work
    end = time.monotonic() + SEEN_S
    while not enough(seen, len(versions), wrong) and time.monotonic() < end:
        passed = run(reader)
        found = passed.states == FOUND
        odd = (passed.as_of != passed.as_of[:, :1]).any(axis=1) | (passed.last_event != _NUMBERS[:, None]).any(axis=1)
        # Sums of float32 in whatever order: half a row of another version is off by a thousandth, and more.
        odd |= ~np.isclose(passed.scores, score_of(passed.as_of[:, 0]), rtol=1e-5)
        seen, wrong = seen + int(found.sum()), wrong + int(odd[found].sum())
        versions.update(passed.as_of[found, 0].tolist())
    return seen, len(versions), wrong


@pytest.mark.parametrize("way", WAYS)
def test_every_score_is_of_one_version_of_its_row(way: str, child: Callable[..., Child], tmp_path: Path) -> None:  # noqa: F811
    """Beside updates, deletes and rows that are used again at once."""
    assert child("churn").line() == "ready"
    enough = lambda seen, versions, _: seen > SCORES and versions > VERSIONS
    seen, versions, wrong = _looked_at(tmp_path / "item", way, enough)
    assert wrong == 0
    assert seen > SCORES and versions > VERSIONS  # else nothing was written meanwhile


@pytest.mark.parametrize("line", [NO_SECOND_LOOK, NO_HASH], ids=["second look", "hash"])
@pytest.mark.parametrize("way", WAYS)
def test_without_a_line_of_the_protocol_some_are_not(
    way: str, line: dict[str, str], child: Callable[..., Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    _change(monkeypatch, line)
    assert child("churn").line() == "ready"
    assert _looked_at(tmp_path / "item", way, lambda *found: found[2] > 0)[2] > 0


def _change(monkeypatch: pytest.MonkeyPatch, lines: dict[str, str]) -> None:
    """Passes run helpers in whose source some lines are other ones."""
    plain = "from numba import njit as _bare, njit as _kernel"
    for module, imported in ((rowkernels, "_bare, _kernel"), (onepass, "_bare, _kernel, _sift")):
        source = Path(module.__file__).read_text()
        for line, other in lines.items():
            assert module is onepass or line in source
            source = source.replace(line, other)
        line = f"from forebay.store.kernels import {imported}"
        assert line in source
        source = source.replace(line, plain + ("\nfrom forebay.store.kernels import _sift" if "_sift" in line else ""))
        source = source.replace("from forebay.store.rowkernels import", "from changed_rowkernels import")
        changed = types.ModuleType(f"changed_{module.__name__.rpartition('.')[2]}")
        monkeypatch.setitem(sys.modules, changed.__name__, changed)
        exec(compile(source.replace("cache=True, ", ""), "changed", "exec"), changed.__dict__)  # noqa: S102 - our own source
    monkeypatch.setattr(tablereader, "onepass", sys.modules["changed_onepass"])
