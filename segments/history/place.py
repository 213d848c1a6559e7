"""Where an archive lies: a folder of this machine, or a place that a URL names."""

from __future__ import annotations

import fcntl
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from forebay.errors import ArchiveError, StoreLocked


@dataclass(frozen=True)
class Place:
    """An archive's folder: any that pyarrow or fsspec knows by its URL, or a path."""

    files: fs.FileSystem
    path: str
    url: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises ArchiveError for a URL that nobody here knows."""
        if "://" not in url:
            return cls(fs.LocalFileSystem(), posixpath.abspath(url), url)
        import fsspec  # only for what is not a path

        try:
            found, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArchiveError(
                f"cannot be reached: {error}", where=url, do="Install what it names, or mend the URL"
            ) from None
        return cls(fs.PyFileSystem(fs.FSSpecHandler(found)), path, url)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return isinstance(self.files, fs.LocalFileSystem)

    def join(self, name: str) -> str:
        """The path of a file in it."""
        return posixpath.join(self.path, name)

    def listed(self, folder: str) -> list[str]:
        """The Parquet files of one of its folders, by name; none where there is no folder."""
        selector = fs.FileSelector(self.join(folder), allow_not_found=True)
        names = (found.base_name for found in self.files.get_file_info(selector) if found.type == fs.FileType.File)
        return sorted(f"{folder}/{name}" for name in names if name.endswith(".parquet"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here while the block runs. That is seen to in a folder of this machine only: elsewhere
        there is no lock to take. Raises StoreLocked."""
        if not self.is_local:
            yield
            return
        Path(self.path).mkdir(parents=True, exist_ok=True)
        handle = os.open(self.join(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreLocked(
                    "another process writes to this archive", where=self.url, do="Wait for it, or stop it"
                ) from None
            yield
        finally:
            os.close(handle)
