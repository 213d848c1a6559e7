"""The dashboard and the alerts ask for what there is, and wake somebody when they should. tests/e2e/test_monitoring.py
holds them against running processes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from reference.metrics import prometheus

from .queries import DEPLOY, GIVEN, OF_PROMETHEUS, RULES, asked, dashboard, expressions, recorded, rules

ROOT = DEPLOY.parent
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| .* \|$", re.MULTILINE)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (Debian: prometheus)"
)
PROCESS = {"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def _labels() -> dict[str, set[str]]:
    """The labels of each series that the package exposes, by its name."""
    found: dict[str, set[str]] = {}
    for name, kind, cell in ROW.findall(prometheus()):
        labels = set(re.findall(r"`(\w+)`", cell))
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix: labels | ({"le"} if suffix == "_bucket" else set()) for suffix in suffixes}
    return found


@pytest.mark.parametrize("place", expressions())
def test_a_query_asks_for_series_and_labels_that_there_are(place: str) -> None:
    """By their names in the reference, which is held against the registries: a misspelt one would be an empty panel, or
    an alert that never wakes anybody."""
    known = _labels()
    found = asked(expressions()[place])
    assert found
    for metric, labels in found:
        if metric in OF_PROMETHEUS or metric in PROCESS:
            assert labels <= GIVEN
        elif metric not in recorded():
            assert metric in known, f"{place} asks for {metric}, which nobody exposes"
            assert labels <= known[metric] | (GIVEN - {"le"}), f"{place} goes by labels that {metric} does not have"


def test_a_query_of_something_else_would_be_noticed() -> None:
    """Names in sub-queries, behind offsets and in functions are found, and so are the labels around them."""
    query = "max by (stage) (rate(a_total{job='x'}[5m] offset 1h)) > on (stage) (max_over_time(b[1h:1m]) + abs(-c))"
    assert [(metric, sorted(labels)) for metric, labels in asked(query)] == [
        ("a_total", ["job", "stage"]), ("b", ["stage"]), ("c", ["stage"]),
    ]  # fmt: skip
    joined = "sum by (stage, generation) (a * on (job) group_left (generation) b) unless on (stage) c"
    assert [(metric, sorted(labels)) for metric, labels in asked(joined)] == [
        ("a", ["job", "stage"]), ("b", ["generation", "job"]), ("c", ["stage"]),
    ]  # fmt: skip


def test_every_alert_says_what_it_is_how_bad_and_where_its_remedy_stands() -> None:
    """Its section is in the handbook, and no section there is of an alert that is gone."""
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    sections = set(re.findall(r"^### (Forebay\w+)$", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE))
    assert set(alerts) == sections
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{name.lower()}"
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_every_alert_has_a_case_in_which_it_wakes_somebody_and_one_in_which_it_does_not() -> None:
    """For promtool, below."""
    cases = yaml.safe_load((Path(__file__).parent / "alerts.test.yaml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    for wakes in (True, False):
        assert {rule["alert"] for rule in rules() if "alert" in rule} == {
            check["alertname"] for check in checks if bool(check["exp_alerts"]) is wakes
        }


@needs_promtool
def test_the_alerts_wake_when_they_should() -> None:
    """Prometheus's own evaluation of made-up series."""
    _promtool("check", "rules", str(RULES))
    _promtool("test", "rules", str(Path(__file__).parent / "alerts.test.yaml"))
    _promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yaml"))


def test_the_panels_of_the_dashboard_do_not_overlap_and_have_titles_of_their_own() -> None:
    """Within Grafana's 24 columns, each by its own id, with a unit, and of the one data source that is chosen above."""
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "job", "instance"}


def _promtool(*words: str) -> None:
    done = subprocess.run(
        [str(shutil.which("promtool")), *words], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
