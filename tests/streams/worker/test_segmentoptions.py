"""[[segment]] tables: how an installation encodes its segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forebay.config import load
from forebay.errors import BundleError, ConfigError
from forebay.segments.bundle import Bundle
from forebay.streams.topics import Topics
from forebay.streams.worker.processor import Processor
from forebay.streams.worker.segmentoptions import SegmentOptions, options_of

KNOWN = ["user.recent", "item.stats"]


def _of(tmp_path: Path, text: str) -> dict[str, SegmentOptions]:
    (tmp_path / "forebay.toml").write_text(text)
    settings, _ = load({}, file=tmp_path / "forebay.toml", environment={})
    return options_of(settings.segment, KNOWN)


def test_what_a_table_does_not_say_is_as_for_all_others(tmp_path: Path) -> None:
    """By the segment's title."""
    found = _of(
        tmp_path, """
        [[segment]]
        name = "user.recent"
        worth = 3
        [[segment]]
        name = "item.stats"
        quota = "12.5%"
        device = "cuda:1"
        """
    )  # fmt: skip
    assert found == {"user.recent": SegmentOptions(worth=3.0), "item.stats": SegmentOptions(1.0, 0.125, "cuda:1")}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            'name = "user.taste"',
            r"no segment 'user.taste' \(.*forebay.toml, \[\[segment\]\] 1\). It has: item.stats, user",
        ),
        ('nam = "user.recent"', "unknown key 'nam'"),
        ("worth = 1", r"no segment '\?'"),
        ('name = "user.recent"\nworth = 0', "worth is not a number above 0"),
        ('name = "user.recent"\nworth = "3"', "worth is not a number above 0"),
        ('name = "user.recent"\nworth = true', "worth is not a number above 0"),
        ('name = "user.recent"\nquota = "0%"', "quota is no share above 0 %"),
        ('name = "user.recent"\nquota = "101%"', "quota is no share above 0 %"),
        ('name = "user.recent"\nquota = 0.5', 'quota = "25%"'),
        ('name = "user.recent"\ndevice = 0', 'device = "cuda:0"'),
        ('name = "user.recent"\n[[segment]]\nname = "user.recent"', "user.recent has two tables"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(line: str, said: str, tmp_path: Path) -> None:
    """With what would be right."""
    with pytest.raises(ConfigError, match=said):
        _of(tmp_path, f"[[segment]]\n{line}\n")


def test_a_device_that_is_not_there_is_refused_before_anything_is_joined(bundle: Bundle, tmp_path: Path) -> None:
    """The setting reaches the encoders."""
    options: dict[str, Any] = {"user.recent": SegmentOptions(device="cuda:99")}
    with pytest.raises(BundleError, match=r"cuda:99 is not there.*device of user.recent"):
        Processor(bundle, "user", Topics(), "g1", 1, tmp_path, segments=options)
