"""`forebay import` as typed: settings, exit codes, what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.events import Behaviour, encode
from forebay.segments.blocks.build import events_of
from forebay.segments.history.archive import Archive

SOURCE = str(Path(__file__).parents[3] / "src")
ROWS = "who,what,at,stars,genres\n1,7,1700000000,4,a|b\n2,7,1700000001,5,\n"
MAPPED = ["--map", "user=who", "--map", "item=what", "--map", "time=at", "--map", "value=stars", "--set", "action=rate"]
MAPPED += ["--map", "item_attributes.genres=genres", "--split", "item_attributes.genres=|", "--time-unit", "s"]


def _import(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
    done = subprocess.run(
        [sys.executable, "-m", "forebay.cli", "import", *words],
        check=False, cwd=folder, capture_output=True, text=True, timeout=120, env=environment | variables,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_a_table_is_mapped_and_imported(tmp_path: Path) -> None:
    """Into the archive of the settings; a second run says that all was there."""
    (tmp_path / "ratings.csv").write_text(ROWS)
    done = _import("ratings.csv", *MAPPED, folder=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("2 events imported into forebay-data/archive")
    events = [e for block in Archive.open(str(tmp_path / "forebay-data" / "archive")) for e in events_of(block)]
    assert events == [
        Behaviour("1", "7", "rate", 4.0, 1_700_000_000_000, "ratings.csv-0-2", {"genres": ["a", "b"]}),
        Behaviour("2", "7", "rate", 5.0, 1_700_000_001_000, "ratings.csv-0-3"),
    ]
    again = _import("ratings.csv", *MAPPED, folder=tmp_path)
    assert again.returncode == 0 and "2 were there before, or come twice" in again.stdout


@pytest.mark.parametrize("named", ["flag", "variable"])
def test_refused_rows_are_exit_code_3(named: str, tmp_path: Path) -> None:
    """With the file that they are in; programs get the same as JSON."""
    good = Behaviour("u", "i", "view", 1.0, 5, "e")
    (tmp_path / "h.jsonl").write_bytes(encode(good) + b"\n{}\n" + encode(Behaviour("u", "i", "view")) + b"\n")
    into = ["--into", "lake"] if named == "flag" else []
    done = _import("h.jsonl", *into, "--json", folder=tmp_path, **({} if into else {"FOREBAY_ARCHIVE": "lake"}))
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert told["accepted"] == told["behaviours"] == 1 and told["refused"] == {"undecodable": 1, "no_time": 1}
    assert told["refused_file"] == "lake/refused.jsonl" and (tmp_path / "lake" / "refused.jsonl").exists()
    assert (told["first_ms"], told["last_ms"], told["files"], told["dry_run"]) == (5, 5, 1, False)
    people = _import("h.jsonl", "--into", "lake", "--refused", "odd.jsonl", "--dry-run", folder=tmp_path)
    assert people.returncode == 3 and "0 events would be imported into lake" in people.stdout
    assert "2 rows refused: 1 undecodable, 1 no_time. They are in odd.jsonl" in people.stdout
    assert len((tmp_path / "odd.jsonl").read_text().splitlines()) == 2


def test_mistakes_are_exit_code_2(tmp_path: Path) -> None:
    """One line says what, one what to do."""
    (tmp_path / "h.csv").write_text("a\n1\n")
    for words, says in (
        (["none.jsonl"], "there is no such file (none.jsonl)"),
        (["h.csv", "--map", "user=who"], "there is no column 'who' for user"),
        (["h.csv", "--time-unit", "minutes"], "'minutes' is no unit of time"),
        ([], "Missing argument"),
    ):
        done = _import(*words, folder=tmp_path)
        assert done.returncode == 2 and says in done.stderr, done.stderr
