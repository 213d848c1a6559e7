"""How the tests are shared out among processes: see sharing.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from .sharing import LONG, SINGLY, TIMED, in_order, unit_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted({*LONG, *SINGLY, *TIMED}))
def test_every_name_is_of_tests_that_there_are(name: str) -> None:
    """One that was renamed would be handed out like any other, and be slow or in the way of others without a word."""
    path, _, test = name.partition("::")
    assert (ROOT / path).exists()
    assert not test or f"def {test}" in (ROOT / path).read_text()


def test_what_is_long_comes_first_and_what_times_out_on_purpose_last() -> None:
    """Whatever the order in which they are collected."""
    names = ["tests/faults/test_once.py::test_a", "tests/e2e/test_main_job.py::test_b", "tests/store/test_rocks.py::c"]
    names += ["tests/faults/test_storm.py::test_d", "tests/simulation/test_bugs.py::test_e"]
    found = [item.nodeid for item in in_order([SimpleNamespace(nodeid=n) for n in names])]  # type: ignore[misc]
    assert found == [names[n] for n in (4, 2, 0, 1, 3)]


def test_a_file_is_one_unit_but_where_its_tests_are_handed_out_singly() -> None:
    """A test's own name has brackets and colons in it."""
    assert unit_of("tests/store/test_codec.py::test_a[x::y]") == "tests/store/test_codec.py"
    assert unit_of("tests/test_cli.py::test_a[x::y]") == "tests/test_cli.py::test_a[x::y]"


def test_what_times_out_on_purpose_is_one_unit() -> None:
    """Two of them at once would disturb one another."""
    names = ("tests/faults/test_storm.py::test_a", "tests/faults/test_once.py::test_b", "tests/e2e/test_x.py::test_c")
    assert len({unit_of(name) for name in names}) == 1
