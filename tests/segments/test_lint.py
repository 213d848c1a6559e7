"""The linter: each oddity is named where it is, and a spec without any has no remarks."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from forebay.cli.app import app
from forebay.segments.lint import Level, lint
from forebay.segments.spec import parse_spec

CLEAN = """
[events]
actions = ["view", "like"]
[label]
positive = "action == 'like'"
impression = "action == 'view'"
within = "30m"
[attributes.item]
genres = { set = ["war", "love"] }
[attributes.user]
country = { category = ["at", "ch"] }
[user.profile]
features = [{ latest = ["country"] }]
encoder = { kind = "mlp" }
dim = 4
[user.taste]
features = [{ count = "genres", where = "value > 0" }, { count = ["genres", "action"], half_life = "1d" }]
encoder = { kind = "mlp" }
dim = 4
[user.recent]
features = [{ last = 3, of = ["item"] }]
encoder = { kind = "bag" }
dim = 4
[item.stats]
features = [{ count = "events" }, { mean = "value", bucket = "1d", over = "3d" }]
encoder = { kind = "mlp" }
dim = 4
"""

Change = Callable[[dict[str, Any]], object]


def _where(text: str) -> Change:
    return lambda d: d["user"]["taste"]["features"][0].update(where=text)


def _asked(text: str) -> Change:
    """A condition on attributes of the event."""
    own = {"position": {"number": True}, "device": {"category": ["phone", "desk"]}, "tags": {"set": ["new", "sale"]}}

    def change(d: dict[str, Any]) -> None:
        d["attributes"]["event"] = {n: a for n, a in own.items() if n in text}
        _where(text)(d)

    return change


def _plain_taste(d: dict[str, Any]) -> None:
    """No feature tells actions apart any more."""
    d["user"]["taste"]["features"] = [{"count": "genres"}]


def _unnamed_action(d: dict[str, Any]) -> None:
    _plain_taste(d)
    d["events"]["actions"].append("share")


ODD: dict[str, tuple[Change, Level, str, str]] = {
    "an orphan": (lambda d: d["attributes"]["item"].update(size={"number": True}), "warning", "[attributes.item] size",
        "no feature reads"),
    "a user orphan": (lambda d: d["attributes"]["user"].update(genres={"number": True}), "warning",
        "[attributes.user] genres", "no feature reads"),
    "an event orphan": (lambda d: d["attributes"].update(event={"seat": {"number": True}}), "warning",
        "[attributes.event] seat", "no feature and no condition"),
    "never by position": (_asked("position < 3 and position > 3.5"), "error", "[user.taste] features", "is never true"),
    "never by device": (_asked("device == 'phone' and device == 'desk'"), "error", "[user.taste] features",
        "is never true"),
    "never by tag": (_asked("not ('new' in tags or 'new' not in tags)"), "error", "[user.taste] features",
        "is never true"),
    "always by tag": (_asked("'new' in tags or 'new' not in tags"), "warning", "[user.taste] features",
        "is always true"),
    "no fusion": (lambda d: d.update(fusion={u: {"kind": "weighted_sum",
        "user": ["taste", "recent"]} for u in ("retrieve", "rank")}),
        "warning", "[user.profile]", "no fusion reads it"),
    "read twice": (lambda d: d["user"]["profile"]["features"].append({"count": "genres", "where": "value > 0"}),
        "warning", "[user.profile] features", "profile and taste both read: count genres where value > 0"),
    "an action": (_unnamed_action, "warning", "[events] actions", "tells 'share'"),
    "never": (_where("value > 1 and value < 1.001"), "error", "[user.taste] features", "is never true"),
    "never both": (_where("action == 'view' and action == 'like'"), "error", "[user.taste] features", "is never true"),
    "never of a negative": (_where("value < -2 and value >= -2"), "error", "[user.taste] features", "is never true"),
    "always": (_where("value < 3 or value >= 3"), "warning", "[user.taste] features", "is always true"),
    "only unlisted": (_where("action not in ('view', 'like')"), "warning", "[user.taste] features",
        "true of no action in"),
    "never positive": (lambda d: d["label"].update(positive="value < 1 and value > 2"), "error", "[label] positive",
        "never true"),
    "never shown": (lambda d: d["label"].update(impression="value < 1 and value > 2"), "error", "[label] impression",
        "never true"),
    "never positive together": (lambda d: d["label"].pop("within"), "error", "[label]",
        "no event can be an impression, \"action == 'view'\", and positive"),
    "its own outcome": (lambda d: d["label"].update(positive="action == 'view' and value >= 1"), "warning",
        "[label] within", "its own outcome"),
    "no time for it": (lambda d: d["label"].update(within="0s"), "error", "[label] within", "own millisecond alone"),
    "a long wait": (lambda d: d["label"].update(within="31d"), "warning", "[label] within", "the last 31d of its part"),
    "a short window": (lambda d: d["item"]["stats"]["features"][1].update(bucket="1h", over="23h"), "warning",
        "[item.stats] features", "events up to 1d late are accepted, and those that come after 23h are not counted"),
    "a cut half-life": (lambda d: d["item"]["stats"]["features"][1].update(half_life="4d"), "warning",
        "[item.stats] features", "before half"),
    "a coarse bucket": (lambda d: d["item"]["stats"]["features"][1].update(half_life="12h"), "warning",
        "[item.stats] features", "longer than"),
    "an impossible bound": (lambda d: d["user"]["recent"].update(late_after="2s"), "warning",
        "[user.recent] late_after",
                            "2s is less than the 7s that a heartbeat of an idle worker can show"),
    "an early end": (lambda d: d["user"]["recent"].update(late_after="1m", expires_after="30s"),
        "warning", "[user.recent] expires_after",
            "dropped after 30s, before it is called late (1m), and what the list holds"),
    "a large row": (lambda d: d["user"]["recent"]["features"][0].update(last=800), "warning", "[user.recent]",
        "bytes, 19,208 of them"),
    "a wide vector": (lambda d: d["user"]["profile"].update(dim=64) or [s.update(dim=64) for s in (*d["user"].values(),
        *d["item"].values())],
        "warning", "[user.profile] dim", "64 dimensions of 3 inputs"),
}  # fmt: skip


def test_a_sound_spec_has_no_remarks() -> None:
    """What every case below is a change of."""
    assert lint(parse_spec(tomllib.loads(CLEAN))) == []


@pytest.mark.parametrize("name", ODD)
def test_each_oddity_is_named_with_its_place_and_remedy(name: str) -> None:
    """One change of the sound spec, and at least the remark that it must bring."""
    change, level, where, what = ODD[name]
    data = tomllib.loads(CLEAN)
    change(data)
    remarks = lint(parse_spec(data))
    found = [r for r in remarks if r.level == level and r.where == where and what in r.what]
    assert len(found) == 1 and found[0].do, remarks
    levels = [r.level for r in remarks]
    assert levels == sorted(levels)  # errors first, as it happens in the order of the alphabet too


@pytest.mark.parametrize(
    "text",
    [
        "value > 1 and value < 2",
        "value > -3 and value < -1",
        "value == 0.001",
        "not action == 'view'",
        "action in ('view', 'like')",
        "value <= -7.5",
    ],
)
def test_a_condition_that_may_go_either_way_is_left_alone(text: str) -> None:
    """All listed actions are not all actions: an unlisted one is folded too."""
    data = tomllib.loads(CLEAN)
    _where(text)(data)
    assert lint(parse_spec(data)) == []


@pytest.mark.parametrize(
    "text",
    [
        "position < 3",
        "position < 3 or position >= 3",  # not of an event without one
        "device != 'phone'",
        "device in ('phone', 'desk')",
        "'new' in tags and 'sale' not in tags",
        "device == 'desk' and position == -1.5 and 'sale' in tags and value > 0",
        " or ".join(f"(position == {n} and device == 'phone' and value == {n})" for n in range(400)),  # too many to try
    ],
)
def test_a_condition_on_event_attributes_that_may_go_either_way_is_left_alone(text: str) -> None:
    """Absent values count: a comparison and its opposite may both be false."""
    data = tomllib.loads(CLEAN)
    _asked(text)(data)
    assert lint(parse_spec(data)) == []


def test_the_linter_needs_no_torch() -> None:
    """It runs where only the store is installed."""
    code = "import sys, forebay.segments.lint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_check_fails_on_errors_alone(tmp_path: Path) -> None:
    """Exit code 0 with warnings and 1 with an error, after everything was printed; --json holds the same remarks."""
    file = tmp_path / "segments.toml"
    for text, code, level in (
        (CLEAN.replace('bucket = "1d", over = "3d"', 'bucket = "1h", over = "23h"'), 0, "warning"),
        (CLEAN.replace("value > 0", "value > 0 and value < 0"), 1, "error"),
    ):
        file.write_text(text)
        done = CliRunner().invoke(app, ["spec", "check", str(file), "--json"])
        data = json.loads(done.stdout)
        assert done.exit_code == code and data["remarks"][0]["level"] == level
        plain = CliRunner().invoke(app, ["spec", "check", str(file)])
        assert plain.exit_code == code


def test_flops_are_two_for_each_weight_of_the_linear_layers(tmp_path: Path) -> None:
    """profile: 3 inputs, the hidden layer of 64 that an mlp has by itself, and 4 outputs."""
    file = tmp_path / "segments.toml"
    file.write_text(CLEAN)
    rows = json.loads(CliRunner().invoke(app, ["spec", "check", str(file), "--json"]).stdout)["segments"]
    profile = rows[0]
    assert profile["segment"] == "user.profile" and profile["side"] == "user" and profile["inputs"] == 3
    assert profile["flops"] == 2 * (3 * 64 + 64 * 4)
