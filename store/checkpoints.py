"""Checkpoints: a store's folder as it was at one offset, at a place that other machines reach.

    PLACE/g1/user-3/00000000000000041200-9f8a21c3.json     a manifest: where it stands, and its files by content
    PLACE/g1/user-3/files/9f8a21c3…                        a file, named by the SHA-256 of its bytes

RocksDB writes a sorted file once: the next Checkpoint names those that are there already, and only new ones travel.
Files come first and the manifest last, so that a crash in between leaves files that nobody names, and `prune` removes
them. A file is held against its name when it is fetched: half a file is no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from forebay.errors import CheckpointError

CHUNK = 4 << 20
# A file that nobody names may be of a Checkpoint that is being written: its manifest comes within minutes.
UNNAMED_FOR_S = 3600.0


class KeptFile(msgspec.Struct, frozen=True):
    """One file of a store's folder."""

    name: str
    bytes: int
    sha256: str


class Checkpoint(msgspec.Struct, frozen=True):
    """One Checkpoint. `of` is the scope and the store: `g1/user-3`, `@intake/behaviour-0`."""

    of: str
    topic: str
    topic_id: str
    offset: int  # the next record to read
    as_of: int  # ms: all that the sources took before it is in it
    created: int  # ms
    files: list[KeptFile]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)

    @property
    def name(self) -> str:
        """Of its manifest, without `.json`: the newest offset is the last by name."""
        return f"{self.offset:020d}-{hashlib.sha256(msgspec.json.encode(self.files)).hexdigest()[:8]}"


class _Sealed(msgspec.Struct):
    sha256: str
    checkpoint: msgspec.Raw


@dataclass(frozen=True)
class Saved:
    """What was written: the Checkpoint, and the bytes of it that were not there before."""

    checkpoint: Checkpoint
    new_bytes: int


@dataclass(frozen=True)
class Pruned:
    """What went: Checkpoints, files, and their bytes."""

    checkpoints: int
    files: int
    bytes: int


class Checkpoints:
    """The Checkpoints of an installation, at a folder or at a URL that fsspec knows. Any thread; each call waits for
    the place as long as its own client does."""

    def __init__(self, url: str) -> None:
        """Raises CheckpointError for a URL that nobody here knows."""
        import fsspec  # seconds, where it brings a cloud's client

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise CheckpointError(
                f"checkpoints cannot be reached: {error}", where=url, do="Install what it names, or mend the URL"
            ) from None
        self._is_local = "file" in _protocols(self._fs)
        # Of sorted files that this process has read before, by device, inode, bytes and time of writing: compaction
        # frees inodes, which the next files get, and small ones have the same size.
        self._hashes: dict[tuple[int, int, int, int], str] = {}

    # -- writing

    def save(self, folder: Path, about: Checkpoint) -> Saved:
        """Keep the store at `folder`, which nobody writes to, as `about` says; its `files` are filled in here.

        Raises CheckpointError when the place cannot be written to: then there is no such Checkpoint, and what had
        travelled need not travel again.
        """
        with self._named(about.of):
            kept, new_bytes = [], 0
            there = self._sizes(self._path(about.of, "files"))
            for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name != "LOCK"):
                file = KeptFile(path.name, path.stat().st_size, self._hash(path))
                kept.append(file)
                if there.get(file.sha256) != file.bytes:
                    self._put(path, self._path(about.of, "files", file.sha256))
                    there[file.sha256] = file.bytes
                    new_bytes += file.bytes
            made = msgspec.structs.replace(about, files=kept)
            inner = msgspec.json.encode(made)
            sealed = msgspec.json.encode(_Sealed(hashlib.sha256(inner).hexdigest(), msgspec.Raw(inner)))
            self._write(self._path(about.of, f"{made.name}.json"), sealed)
        return Saved(made, new_bytes)

    def prune(self, of: str, keep: int, unnamed_for_s: float = UNNAMED_FOR_S, *, dry_run: bool = False) -> Pruned:
        """Remove all but the `keep` Checkpoints of a store that were made last, manifests that cannot be read, and the
        files that none of those kept names and that are older than `unnamed_for_s`. With `dry_run` only count. Raises
        CheckpointError."""
        with self._named(of):
            found, gone = [], []
            for name in self._manifests(of):
                try:
                    found.append((self._read(of, name), name))
                except CheckpointError:
                    gone.append(name)
            # Not by offset: a topic that was made anew, and a group that was set back, begin low again.
            found.sort(key=lambda one: (one[0].created, one[1]), reverse=True)
            gone += [name for _, name in found[keep:]]
            named = {file.sha256 for one, _ in found[:keep] for file in one.files}
            if not dry_run:  # manifests first: a file that a manifest names is there
                for name in gone:
                    self._fs.rm_file(self._path(of, f"{name}.json"))
            files, size, before = 0, 0, time.time() - unnamed_for_s
            folder = self._path(of, "files")
            for entry in self._entries(folder):
                name, path = posixpath.basename(entry["name"]), entry["name"]
                if name in named or self._modified(path) > before:
                    continue
                files, size = files + 1, size + int(entry["size"] or 0)
                if not dry_run:
                    self._fs.rm_file(path)
            return Pruned(len(gone), files, size)

    def remove(self, scope: str) -> None:
        """Remove all Checkpoints of a scope: a generation that is built anew under its name. Raises CheckpointError."""
        with self._named(scope), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(scope), recursive=True)

    # -- reading

    def stores(self) -> list[str]:
        """Of which stores there are Checkpoints: `g1/item-0`, … Raises CheckpointError."""
        with self._named(""):
            scopes = [posixpath.basename(e["name"].rstrip("/")) for e in self._entries(self._root)]
            return sorted(store for scope in scopes for store in self.of_scope(scope))

    def of_scope(self, scope: str) -> list[str]:
        """The stores of one scope that have Checkpoints. Raises CheckpointError."""
        with self._named(scope):
            names = [posixpath.basename(e["name"].rstrip("/")) for e in self._entries(self._path(scope))]
            return sorted(of for name in names if self._manifests(of := f"{scope}/{name}"))

    def names(self, of: str) -> list[str]:
        """The Checkpoints of one store by name, the newest first. Raises CheckpointError."""
        with self._named(of):
            return self._manifests(of)

    def load(self, of: str, name: str) -> Checkpoint:
        """One Checkpoint. Raises CheckpointError where it is gone, or not what was written."""
        with self._named(of):
            return self._read(of, name)

    def fetch(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        told: Callable[[int], None] = lambda size: None,
        have: Path | None = None,
    ) -> None:
        """Make `folder`, which must not exist, the store that `checkpoint` is of. `told(bytes)` hears of each piece.
        With a folder `have`, sorted files come from there by content and are kept there, those of this Checkpoint
        alone: what an earlier one had does not travel again.

        Raises CheckpointError when a file is missing or is not what was written, and leaves no folder then. A crash
        leaves part of it: the caller takes a name that no store has, and gives it the store's name afterwards.
        """
        folder.mkdir(parents=True)
        try:
            with self._named(checkpoint.of):
                for file in checkpoint.files:
                    if have is None or not file.name.endswith(".sst"):  # others are written to
                        self._get(checkpoint.of, file, folder / file.name, told)
                        continue
                    self._get_once(checkpoint.of, file, have / file.sha256, told)
                    if not _linked(have / file.sha256, str(folder / file.name)):
                        shutil.copyfile(have / file.sha256, folder / file.name)
                if have is not None:
                    _keep_only(have, {file.sha256 for file in checkpoint.files})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    # -- files

    def _put(self, path: Path, to: str) -> None:
        if not self._is_local:
            self._fs.put_file(str(path), to)
            return
        beside = f"{to}.{os.getpid()}"
        os.makedirs(posixpath.dirname(to), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        # On one disk a sorted file becomes one file with two names, since it is never written again; others are.
        if path.suffix != ".sst" or not _linked(path, beside):
            shutil.copyfile(path, beside)
        os.replace(beside, to)

    def _write(self, path: str, data: bytes) -> None:
        if not self._is_local:
            self._fs.pipe_file(path, data)
            return
        os.makedirs(posixpath.dirname(path), exist_ok=True)
        beside = f"{path}.{os.getpid()}"
        Path(beside).write_bytes(data)
        os.replace(beside, path)

    def _get(self, of: str, file: KeptFile, to: Path, told: Callable[[int], None]) -> None:
        digest, size = hashlib.sha256(), 0
        with self._fs.open(self._path(of, "files", file.sha256), "rb") as source, to.open("wb") as target:
            while piece := source.read(CHUNK):
                digest.update(piece)
                size += len(piece)
                target.write(piece)
                told(len(piece))
        if digest.hexdigest() != file.sha256 or size != file.bytes:
            raise CheckpointError(
                f"{file.name} is not what was written: {size:,} of {file.bytes:,} bytes, or others",
                where=self._path(of, "files", file.sha256),
                do="An older checkpoint is taken where there is one",
            )

    def _get_once(self, of: str, file: KeptFile, to: Path, told: Callable[[int], None]) -> None:
        """The name is given when the bytes are there: what a crash leaves of one has another name."""
        if to.exists() and to.stat().st_size == file.bytes:
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        coming = to.with_name(f"{to.name}.{os.getpid()}")
        try:
            self._get(of, file, coming, told)
            os.replace(coming, to)
        finally:
            coming.unlink(missing_ok=True)

    def _hash(self, path: Path) -> str:
        state = path.stat()
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if path.suffix == ".sst" and key in self._hashes:
            return self._hashes[key]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
        if path.suffix == ".sst":
            if len(self._hashes) > 100_000:
                self._hashes.clear()
            self._hashes[key] = digest.hexdigest()
        return digest.hexdigest()

    def _read(self, of: str, name: str) -> Checkpoint:
        path = self._path(of, f"{name}.json")
        try:
            sealed = msgspec.json.decode(self._fs.cat_file(path), type=_Sealed)
            if hashlib.sha256(bytes(sealed.checkpoint)).hexdigest() != sealed.sha256:
                raise ValueError("its checksum is another one")
            return msgspec.json.decode(bytes(sealed.checkpoint), type=Checkpoint)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise CheckpointError(
                f"a manifest is not what was written: {error}", where=path, do="Remove it: forebay checkpoints prune"
            ) from None

    def _manifests(self, of: str) -> list[str]:
        names = (posixpath.basename(e["name"]) for e in self._entries(self._path(of)))
        return sorted((name.removesuffix(".json") for name in names if name.endswith(".json")), reverse=True)

    def _entries(self, path: str) -> Sequence[Any]:
        self._fs.invalidate_cache(path)  # an object store's client remembers what others have changed since
        try:
            return self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return ()

    def _sizes(self, path: str) -> dict[str, int]:
        return {posixpath.basename(e["name"]): int(e["size"] or 0) for e in self._entries(path)}

    def _modified(self, path: str) -> float:
        if self._is_local:  # a link has the time of writing of the store's own file; when it was linked is another one
            return os.stat(path).st_ctime
        try:
            return float(self._fs.modified(path).timestamp())
        except (NotImplementedError, AttributeError):  # a place that keeps no times: nothing is ever old enough
            return float("inf")

    def _path(self, *parts: str) -> str:
        return posixpath.join(self._root, *parts)

    @contextlib.contextmanager
    def _named(self, of: str) -> Any:
        """Whatever a place's own client raises, as one error."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                said, where=posixpath.join(self.url, of), do="Can this machine reach the place, and write to it?"
            ) from error


def about(of: str, meta: Any, now_ms: int) -> Checkpoint:
    """A Checkpoint to be, made `now_ms`, of the store `of`, whose meta (PartitionMeta or SourceMeta) says where it
    stands."""
    return Checkpoint(of, meta.topic, meta.topic_id, meta.offset, meta.as_of, now_ms, [])


def _keep_only(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names:
            path.unlink(missing_ok=True)


def _linked(path: Path, to: str) -> bool:
    try:
        os.link(path, to)
    except OSError:  # another disk, or one that knows no links
        return False
    return True


def _protocols(fs: Any) -> Sequence[str]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
