"""What every store over one RocksDB directory shares: it is opened, copied for a Checkpoint, and closed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from forebay.store.rocks import Rocks


class OnRocks:
    """A store over `rocks`. Its own file says what the keys are, and what is written together."""

    def __init__(self, rocks: Rocks) -> None:
        self._rocks = rocks
        self.path = rocks.path

    def snapshot(self, folder: Path) -> None:
        """Make `folder`, which must not exist, a copy of the store as of its last write."""
        self._rocks.snapshot(folder)

    def close(self) -> None:
        """Release the directory for its next owner. Closing twice is fine."""
        self._rocks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
