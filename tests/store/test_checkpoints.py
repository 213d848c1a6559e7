"""Checkpoints: what is fetched is what was kept, only new files travel, and what is damaged is found."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from forebay.errors import CheckpointError
from forebay.store.checkpoints import Checkpoint, Checkpoints, about
from forebay.store.partitionstore import PartitionMeta, PartitionStore, StoredRow

META = PartitionMeta("events.user", 3, "topic-1", 4, "layout", 100, as_of=5_000)
OF = "g1/user-3"
_names = itertools.count()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket of an S3 that runs here."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "reader")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "opens-it")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("lake")
        yield "s3://lake"
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place of each kind."""
    if request.param == "folder":
        return str(tmp_path / "kept")
    root = request.getfixturevalue("bucket") if request.param == "s3" else "memory://lake"
    return f"{root}/{next(_names)}"


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Any]:
    """`keep(checkpoints, offset, ids)`: write those entities into a store, and keep it as of an offset."""
    numbers = itertools.count()
    store = PartitionStore.open(tmp_path / "store", create=True)

    def kept(checkpoints: Checkpoints, offset: int, ids: range, created: int = 7) -> Any:
        meta = _meta(offset)
        store.write(meta=meta, puts=[(b"u%d" % n, StoredRow(b"state%d" % n * 40, b"v" * 600)) for n in ids])
        copy = tmp_path / f"copy-{next(numbers)}"
        store.snapshot(copy)
        return checkpoints.save(copy, about(OF, meta, created))

    return kept


def _meta(offset: int) -> PartitionMeta:
    return PartitionMeta("events.user", 3, "topic-1", 4, "layout", offset, as_of=offset * 10)


def _about(offset: int) -> Checkpoint:
    return about(OF, _meta(offset), 7)


def _entities(path: Path) -> dict[bytes, StoredRow]:
    with PartitionStore.open(path, create=False) as store:
        return dict(store.scan())


def test_what_is_fetched_is_what_was_kept(place: str, keep: Callable[..., Any], tmp_path: Path) -> None:
    """Another process, on another machine, has the same rows as of the same offset."""
    keep(Checkpoints(place), 100, range(500))
    keep(Checkpoints(place), 200, range(400, 900))
    there, told = Checkpoints(place), []
    assert there.stores() == there.of_scope("g1") == [OF]
    newest, before = (there.load(OF, name) for name in there.names(OF))
    assert [(c.offset, c.as_of, c.topic_id) for c in (newest, before)] == [
        (200, 2000, "topic-1"), (100, 1000, "topic-1"),
    ]  # fmt: skip
    there.fetch(newest, tmp_path / "here", told.append)
    there.fetch(before, tmp_path / "before")
    assert _entities(tmp_path / "here").keys() == {b"u%d" % n for n in range(900)}
    assert _entities(tmp_path / "before").keys() == {b"u%d" % n for n in range(500)}
    assert sum(told) == newest.bytes
    with PartitionStore.open(tmp_path / "here", create=False) as store:
        meta = store.meta()
    assert meta is not None and meta.offset == 200


def test_only_new_files_travel(place: str, keep: Callable[..., Any]) -> None:
    """The second Checkpoint brings what came since, and the small files that say so."""
    checkpoints = Checkpoints(place)
    first = keep(checkpoints, 100, range(20_000))
    second = keep(checkpoints, 200, range(20_000, 20_100))
    assert first.new_bytes == first.checkpoint.bytes > 1_000_000
    assert second.checkpoint.bytes > first.checkpoint.bytes
    assert second.new_bytes < 0.1 * first.new_bytes
    again = keep(Checkpoints(place), 300, range(0))  # by whoever never read those files before
    assert again.new_bytes < 0.1 * first.new_bytes


@pytest.mark.parametrize("harm", ["flipped", "short", "gone"])
def test_a_damaged_file_is_found_on_arrival(harm: str, place: str, keep: Callable[..., Any], tmp_path: Path) -> None:
    """Its hash is its name. Nothing is left where it was to arrive."""
    checkpoints = Checkpoints(place)
    kept = keep(checkpoints, 100, range(3_000)).checkpoint
    fs, root = fsspec.core.url_to_fs(place)
    largest = max(kept.files, key=lambda file: file.bytes)
    path = f"{root}/{OF}/files/{largest.sha256}"
    data = bytearray(fs.cat_file(path))
    data[len(data) // 2] ^= 1
    if harm == "gone":
        fs.rm_file(path)
    else:
        fs.rm_file(path)  # a folder shares its files with the store: a new one, not another content
        fs.pipe_file(path, bytes(data) if harm == "flipped" else bytes(data[: len(data) // 2]))
    said = "FileNotFoundError" if harm == "gone" else "is not what was written"
    with pytest.raises(CheckpointError, match=said):
        Checkpoints(place).fetch(kept, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_half_a_file_of_an_upload_that_was_cut_off_is_written_again(place: str, keep: Callable[..., Any]) -> None:
    """A crash leaves a file that is too short, and no manifest: the next Checkpoint does not trust it."""
    checkpoints = Checkpoints(place)
    kept = keep(checkpoints, 100, range(3_000)).checkpoint
    fs, root = fsspec.core.url_to_fs(place)
    largest = max(kept.files, key=lambda file: file.bytes)
    path = f"{root}/{OF}/files/{largest.sha256}"
    fs.rm_file(path)
    fs.pipe_file(path, b"the beginning")
    fs.rm_file(f"{root}/{OF}/{kept.name}.json")
    saved = keep(checkpoints, 200, range(1))
    assert saved.new_bytes >= largest.bytes
    assert fs.size(path) == largest.bytes


def test_prune_keeps_the_newest_and_what_they_name(place: str, keep: Callable[..., Any], tmp_path: Path) -> None:
    """Files of a Checkpoint that is being written are named by nobody yet, and are not old."""
    checkpoints = Checkpoints(place)
    for number in range(1, 5):
        keep(checkpoints, 100 * number, range(200 * number))
    counted = checkpoints.prune(OF, 2, unnamed_for_s=-60, dry_run=True)
    assert len(checkpoints.names(OF)) == 4
    assert checkpoints.prune(OF, 2).files == 0
    pruned = checkpoints.prune(OF, 2, unnamed_for_s=-60)
    assert (counted.checkpoints, counted.files) == (2, pruned.files) and pruned.files > 0 and pruned.bytes > 0
    assert [checkpoints.load(OF, name).offset for name in checkpoints.names(OF)] == [400, 300]
    for number, name in enumerate(checkpoints.names(OF)):
        checkpoints.fetch(checkpoints.load(OF, name), tmp_path / f"here-{number}")
    checkpoints.remove("g1")
    assert checkpoints.stores() == []
    checkpoints.remove("g1")


def test_prune_keeps_what_was_made_last(place: str, keep: Callable[..., Any]) -> None:
    """Whatever its offset: a topic that was made anew begins at 0 again, and so does a group that was set back."""
    checkpoints = Checkpoints(place)
    for number, offset in enumerate([90_000, 91_000, 100, 200]):
        made = keep(checkpoints, offset, range(10 * number), created=number).checkpoint
        checkpoints.prune(OF, 2)
        assert made.name in checkpoints.names(OF)
    assert [checkpoints.load(OF, name).offset for name in checkpoints.names(OF)] == [200, 100]


def test_prune_removes_manifests_that_cannot_be_read(place: str, keep: Callable[..., Any]) -> None:
    """As their error says; the others stay."""
    checkpoints = Checkpoints(place)
    names = [keep(checkpoints, offset, range(10)).checkpoint.name for offset in (100, 200)]
    fs, root = fsspec.core.url_to_fs(place)
    fs.pipe_file(f"{root}/{OF}/{names[1]}.json", b"not this")
    assert checkpoints.prune(OF, 2).checkpoints == 1
    assert checkpoints.names(OF) == [names[0]]


def test_a_file_that_was_linked_just_now_is_not_old(keep: Callable[..., Any], tmp_path: Path) -> None:
    """A store's file may be of last week. It is named by nobody before the manifest of its first Checkpoint."""
    checkpoints, store = Checkpoints(str(tmp_path / "kept")), tmp_path / "week-old.sst"
    keep(checkpoints, 100, range(10))
    store.write_bytes(b"of last week")
    os.utime(store, (1.0, 1.0))
    linked = tmp_path / "kept" / OF / "files" / "on-its-way"
    os.link(store, linked)
    assert checkpoints.prune(OF, 1).files == 0 and linked.exists()


def test_a_file_that_has_another_s_inode_is_not_taken_for_it(tmp_path: Path) -> None:
    """Compaction frees inodes, and the next sorted file of the same size may have one of them."""
    checkpoints, folder = Checkpoints(f"memory://lake/{next(_names)}"), tmp_path / "copy"
    folder.mkdir()
    path = folder / "000009.sst"
    kept = []
    for number, content in enumerate([b"one file", b"another "]):
        path.write_bytes(content)  # in place: the inode stays
        os.utime(path, ns=(number, number))
        kept.append(checkpoints.save(folder, _about(number)).checkpoint)
    assert kept[0].files[0].sha256 != kept[1].files[0].sha256
    checkpoints.fetch(kept[1], tmp_path / "here")
    assert (tmp_path / "here" / "000009.sst").read_bytes() == b"another "


def test_a_manifest_that_is_not_what_was_written_is_refused(place: str, keep: Callable[..., Any]) -> None:
    """A flipped digit of an offset would be a valid manifest of another state."""
    checkpoints = Checkpoints(place)
    name = keep(checkpoints, 100, range(10)).checkpoint.name
    fs, root = fsspec.core.url_to_fs(place)
    path = f"{root}/{OF}/{name}.json"
    data = fs.cat_file(path)
    fs.pipe_file(path, data.replace(b'"offset":100', b'"offset":900'))
    with pytest.raises(CheckpointError, match="forebay checkpoints prune"):
        checkpoints.load(OF, name)


def test_a_folder_on_the_same_disk_shares_sorted_files(keep: Callable[..., Any], tmp_path: Path) -> None:
    """Checkpoints of a single machine take no room for what the store still has, and never share what is appended."""
    checkpoints = Checkpoints(str(tmp_path / "kept"))
    kept: Checkpoint = keep(checkpoints, 100, range(1000)).checkpoint
    for file in kept.files:
        links = (tmp_path / "kept" / OF / "files" / file.sha256).stat().st_nlink
        assert (links > 1) == (file.name.endswith(".sst")), file.name


def test_a_place_that_nobody_knows_or_reaches_is_named(keep: Callable[..., Any], tmp_path: Path) -> None:
    """What, where, and what to do."""
    with pytest.raises(CheckpointError, match="mend the URL"):
        Checkpoints("gopher://there/forebay")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="Can this machine reach the place"):
        keep(Checkpoints(str(tmp_path / "file")), 100, range(10))
