"""A small run of the benchmark of checkpoints: it needs no broker."""

from __future__ import annotations

import json
import sys

import pytest

import checkpoints


def test_a_small_partition_goes_to_both_places_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole script, which ends itself where what comes back is another state."""
    monkeypatch.setattr(sys, "argv", ["checkpoints.py", "--users", "300", "--repeats", "1", "--json"])
    assert checkpoints.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["users"] == 300
    names = [line["name"] for line in told["lines"] if line["unit"] == "MB/s"]
    assert "kept, file://" in names
    assert "restored (fetched and opened), memory://" in names
    assert all(line["low"] > 0 for line in told["lines"])
