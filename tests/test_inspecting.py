"""The page of `forebay serve` as the settings want it, and the process beside it where that does not do its work."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from forebay.cli.inspecting import Beside, inspected
from forebay.cli.questions import command
from forebay.config import Settings, load
from forebay.errors import ConfigError, ServerUnavailable
from forebay.retrieval.inspect.supposed import Supposition
from forebay.secret import Secret

from .retrieval.conftest import Node

ASKED = Supposition("u", "i", "rate", 1.0)


def _beside(script: str, answer_s: float = 20.0) -> Beside:
    return Beside([sys.executable, "-c", script], [], answer_s)


@pytest.mark.parametrize(
    ("script", "answer_s", "said"),
    [
        ("print('loaded', flush=True); import time; time.sleep(60)", 3.0, "no answer within"),
        (
            "import sys; print('loaded', flush=True); sys.stdin.readline(); print('half', end='', flush=True)",
            20.0,
            "its process ended",
        ),
        ("raise SystemExit(3)", 20.0, "its process ended"),
    ],
)
def test_a_process_that_does_not_answer_is_not_waited_for(script: str, answer_s: float, said: str) -> None:
    """It is ended, and who asked hears why."""
    beside, began = _beside(script, answer_s), time.monotonic()
    with pytest.raises(ServerUnavailable, match=said):
        beside.suppose(ASKED)
    assert beside._process is None and time.monotonic() - began < 15
    beside.close()


def test_one_that_has_ended_for_want_of_questions_is_started_again() -> None:
    """Nobody notices."""
    beside = _beside(
        "import sys; print('loaded', flush=True); sys.stdin.readline(); print('{\"checkpoint_ms\": 7}', flush=True)"
    )
    assert [beside.suppose(ASKED).checkpoint_ms for _ in range(3)] == [7, 7, 7]
    beside.close()


def test_one_that_loads_for_long_goes_on_loading() -> None:
    """Who asks hears so, and whoever asks again later is answered."""
    script = (
        "import sys, time; time.sleep(4); print('loaded', flush=True); sys.stdin.readline(); print('{}', flush=True)"
    )
    beside = Beside([sys.executable, "-c", script], [], 30.0, load_s=0.5)
    with pytest.raises(ServerUnavailable, match="still being loaded"):
        beside.suppose(ASKED)
    process, answered, until = beside._process, False, time.monotonic() + 30
    while not answered and time.monotonic() < until:
        try:
            answered = beside.suppose(ASKED).events == 0
        except ServerUnavailable as error:
            assert "still being loaded" in str(error)
    assert answered and beside._process is process
    beside.close()


def test_secrets_are_in_no_command_line() -> None:
    """Everybody on a machine reads those. The process reads them where its server did."""
    settings, _ = load({"topic_prefix": "x-"}, environment={"FOREBAY_KAFKA_PASSWORD": "hunter2"})
    words = " ".join(command(settings))
    assert isinstance(settings.kafka_password, Secret) and "hunter2" not in words and '"topic_prefix": "x-"' in words
    again, _ = load({"topic_prefix": "x-"}, environment={"FOREBAY_KAFKA_PASSWORD": "hunter2"})
    assert again == settings


def test_the_setting_leaves_the_page_or_its_what_if_out() -> None:
    """And another word is refused by name."""
    node: Any = Node()
    model: Any = None
    with inspected(Settings(inspect="off"), model, node.engine) as page:
        assert page is None
    with inspected(Settings(inspect="page"), model, node.engine) as page:
        assert page is not None and page._what_if is None and "setting" in page._lacking
    with (
        pytest.raises(ConfigError, match="inspect is 'yes'"),
        inspected(Settings(inspect="yes"), model, node.engine),
    ):
        raise AssertionError
