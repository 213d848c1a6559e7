"""How soon a search finds a new item, as `forebay bench index` measures it: small, with all of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.cli import benchvisible
from forebay.cli.bench import _line, bundle_of_benches
from forebay.cli.benchvisible import BATCH, bench, found_by, query_of
from forebay.errors import ServerUnavailable
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES
from forebay.store.codec import codec_of
from forebay.store.servingcopy import ServingCopy


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundle_of_benches()


def test_each_new_item_is_found_in_one_process_and_by_another(bundle: Bundle) -> None:
    """By the first search that begins after its write has returned; the write is a part of the time."""
    lines: dict[str, Any] = {line["name"]: line for line in bench(bundle, 2, _line, items=500, writes=4)}
    for where in ("in one process", "by another process"):
        p50, p99 = (lines[f"a new item until a search {where} finds it, p{q}"] for q in (50, 99))
        wrote = lines[f"the write of its batch of {BATCH} in that, {where}, p50"]
        assert 0 < p50["low"] <= p99["high"] < 1e4 * benchvisible.PATIENCE_S and p99["target"] == 5.0
        if where == "in one process":  # the other one may have found it before the writer has its processor back
            assert wrote["low"] < p50["high"]
        assert lines[f"searches {where} after a write that missed its item"]["high"] == 0


def test_an_item_that_is_not_there_is_not_waited_for_without_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An error by name; each search was a miss."""
    monkeypatch.setattr(benchvisible, "PATIENCE_S", 0.05)
    copy = ServingCopy(bundle, "bench", {side: codec_of(bundle, side) for side in SIDES}, dict.fromkeys(SIDES, 1))
    with pytest.raises(ServerUnavailable, match="no search has found new7"):
        found_by(copy, query_of(bundle), 7)
    copy.show("item", ["new7"], codec_of(bundle, "item").empty(1), [0])
    seen = found_by(copy, query_of(bundle), 7)
    assert seen.missed_ns == [] and seen.at_ns > 0
    assert np.count_nonzero(query_of(bundle)) > 0
