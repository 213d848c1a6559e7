"""The verbs about models, at a terminal: what they say of a label, of a training and of an evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forebay.events import Behaviour, ItemUpdate, encode

SOURCE = str(Path(__file__).parents[1] / "src")
SPEC = """
[events]
actions = ["view", "click"]
[label]
positive = "value >= 4"
[attributes.item]
genre = { category = ["war", "love", "crime"] }
[user.taste]
features = [{ count = "genre", where = "value >= 4" }, { count = "genre" }]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[item.content]
features = [{ latest = ["genre"] }]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
"""
START = 1_700_000_000_000


def _forebay(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE}
    command = [sys.executable, "-m", "forebay.cli", *words]
    return subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, and a log of 1,000 ratings in which users like one genre until the training part ends, and then every
    other one."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "segments.toml").write_text(SPEC)
    random = np.random.default_rng(0)
    genres = ("war", "love", "crime")
    events: list[msgspec.Struct] = [ItemUpdate(f"i{n}", {"genre": genres[n % 3]}, START - 1, "new") for n in range(30)]
    for number in range(1000):
        user, item = number % 20, int(random.integers(30))
        value = 5.0 if (user % 3 == item % 3) == (number < 700) else 1.0
        time, genre = START + number * 60_000, {"genre": genres[item % 3]}
        events.append(Behaviour(f"u{user}", f"i{item}", "view", value, time, f"e{number}", genre))
    (folder / "turned.jsonl").write_bytes(b"\n".join(encode(e) for e in events) + b"\n")
    return folder


def test_a_training_says_what_it_learned_from_and_that_it_learned_nothing(folder: Path) -> None:
    """Positives and negatives of both parts; an AUC of chance, and a recall@50 of 30 items, are warned of on standard
    error."""
    words = ("train", "--from", "turned.jsonl", "--spec", "segments.toml", "--epochs", "1", "--data", "data")
    done = _forebay(*words, folder=folder)
    assert done.returncode == 0, done.stderr
    data = json.loads(_forebay(*words, "--json", folder=folder).stdout)
    for part in ("train", "validation"):
        positive = data["positives"][part]
        negative = data["examples"][part] - positive
        assert positive > 0 and f"{part} {positive:,} positive and {negative:,} negative" in done.stdout
    assert data["validation_auc"] < 0.52
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(data["warnings"]) == 2
    assert "validation AUC" in warned[0] and "chance" in warned[0] and "recall@50 is out of 30 items" in warned[1]


def test_threads_that_wait_for_one_another_sleep(folder: Path) -> None:
    """Two threads of a layer that spin while they wait take ten times as long beside any other work; what is set
    already stays."""
    code = (
        "import os, sys; sys.argv = ['forebay', '--help']; from forebay.cli import main\n"
        "try: main()\nexcept SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    for given, expected in (({}, "PASSIVE False"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE False")):
        bare = {n: v for n, v in os.environ.items() if n != "OMP_WAIT_POLICY"}
        environment = {**bare, "PYTHONPATH": SOURCE, **given}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        assert done.stdout.splitlines()[-1] == expected


def test_an_evaluation_has_budgets_as_a_bench_has(folder: Path) -> None:
    """For programs a list beside the figures, each with its target and whether it is met."""
    done = _forebay("evaluate", "--from", "synthetic:1000", "--quick", "--out", "e.html", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    budgets = json.loads(done.stdout)["budgets"]
    assert len(budgets) > 6 and all(set(b) == {"name", "target", "measured", "unit", "met"} for b in budgets)
    named = {b["name"]: b for b in budgets}
    one = named["AUC, forebay affinity less early ranker"]
    assert one["met"] == (one["measured"] >= one["target"])


def test_a_label_is_held_against_its_own_log(folder: Path) -> None:
    """`spec check --from` counts impressions and positives, and warns of a label that this log cannot satisfy."""
    done = _forebay("spec", "check", "segments.toml", "--from", "turned.jsonl", "--json", folder=folder)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["label"]["impressions"] == 1000 and 0 < found["label"]["positives"] < 1000
    assert (
        found["remarks"]
        == json.loads(_forebay("spec", "check", "segments.toml", "--json", folder=folder).stdout)["remarks"]
    )
    for positive, what in (
        ("value >= 6", "none of 1,000 impressions meets positive = 'value >= 6'"),
        ("value >= 1", "all 1,000 impressions meet positive = 'value >= 1'"),
    ):
        (folder / "odd.toml").write_text(SPEC.replace("value >= 4", positive, 1))
        told = _forebay("spec", "check", "odd.toml", "--from", "turned.jsonl", folder=folder)
        assert told.returncode == 0 and what in told.stdout and "[label]" in told.stdout
        assert f"{1000 * (positive == 'value >= 1'):,} of 1,000 impressions are positive" in told.stdout
