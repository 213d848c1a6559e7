"""Arrays that may be larger than memory: past a size they lie in a file that nobody else sees, and that goes with
them."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

LEAST_BYTES = 256 << 20  # of an array in a file: below it memory is what it costs anyway


class Scratch:
    """Makes arrays. Files are made in `folder`, or where the system keeps temporary ones; they have no name, so that a
    process that is killed leaves nothing."""

    def __init__(self, folder: Path | None = None, least_bytes: int = LEAST_BYTES) -> None:
        self._folder, self._least_bytes = folder, least_bytes

    def floats(self, *shape: int) -> npt.NDArray[np.float32]:
        """A float32 array of that shape, of any content. Raises OSError where the disk is full."""
        if 4 * math.prod(shape) < self._least_bytes:
            return np.empty(shape, dtype=np.float32)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            os.posix_fallocate(
                file.fileno(), 0, 4 * math.prod(shape)
            )  # a full disk is an error now, not a signal later
            return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
