"""Files that are whole or absent: after a crash there is what was there before, or all of the new bytes, never a
part."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, and return when both are on the disk.

    The bytes go to a file beside it first, whose name carries the process's id: two processes may write at once, and
    the later one wins. A crash may leave that file behind. The folder must be there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder` are on the disk as they are now."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
