"""The collector of garbage in processes that run for weeks."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc
import msgspec
from forebay.cli.collection import settle
settle()
known = gc.get_freeze_count()
assert known > 5_000, known
assert not gc.get_objects() or len(gc.get_objects()) < 1_000
one = []
one.append(one)
del one
assert gc.collect() == 1
"""


def test_what_is_loaded_is_not_walked_and_what_comes_later_is_collected() -> None:
    """In a process of its own: it is for the whole of one."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
