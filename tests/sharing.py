"""How `pytest -n` shares the tests out among its processes, each of which has a Kafka broker of its own.

A file is run by one process, so that what its tests set up in common is set up once. The tests of the files in SINGLY
have little in common and take long: they are handed out one by one. What takes longest comes first, so that no process
is left with a long file at the end. The tests of TIMED kill, freeze and time out on purpose, and each keeps several
processes busy by itself: one process runs them all, one after the other, when nothing else is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

TIMED = ("tests/e2e/", "tests/faults/")
SINGLY = (
    "tests/segments/state/test_fold.py",
    "tests/simulation/",
    "tests/test_cli.py",
)
# Files and tests of more than half a minute, the longest first.
LONG = (
    "tests/simulation/",
    "tests/streams/transports/test_redrive_on_kafka.py",
    "tests/test_packaging.py",
    "tests/test_model_verbs.py",
    "tests/segments/state/test_fold.py",
    "tests/test_cli.py",
)


def unit_of(nodeid: str) -> str:
    """What is run by one process and handed out as one: all of TIMED, a test of SINGLY, or else a file."""
    if nodeid.startswith(TIMED):
        return "timed"
    return nodeid if nodeid.startswith(SINGLY) else nodeid.partition("::")[0]


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests as they are handed out. Every process collects them in this one order, on which they have to agree."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        name = item.nodeid
        return name.startswith(TIMED), next((n for n, one in enumerate(LONG) if name.startswith(one)), len(LONG))

    return sorted(items, key=place)
