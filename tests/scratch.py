"""Where the tests' folders are: in memory, if there is room.

A store waits for the disk whenever it opens, and the tests open tens of thousands. They kill processes and no machine,
for which memory keeps what a disk keeps.
"""

from __future__ import annotations

import os
import tempfile

MEMORY = "/dev/shm"
ROOM_BYTES = 4 << 30  # a whole run leaves less than half of it


def choose() -> None:
    """Point TMPDIR at memory, for this process and for those that it starts. One that is set stays."""
    if "TMPDIR" not in os.environ and _has_room(MEMORY):
        os.environ["TMPDIR"] = MEMORY
        tempfile.tempdir = None  # what was found before


def _has_room(folder: str) -> bool:
    """Whether it is there, is large enough, and runs what is installed in it (test_packaging.py makes environments)."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    free = found.f_bavail * found.f_frsize
    return os.access(folder, os.W_OK) and free >= ROOM_BYTES and not found.f_flag & os.ST_NOEXEC
