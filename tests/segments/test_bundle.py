"""Bundles: what is saved is what is loaded, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

import forebay
from forebay.errors import BundleError
from forebay.segments.bundle import MANIFEST, WEIGHTS, Bundle
from forebay.segments.spec import USES
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.readout import Vocabulary

from .models import spec, untrained

ITEMS = Vocabulary.of(hash_ids(["i1", "i2", "i3"]))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return untrained(spec("listless"), ITEMS, seed=1)


@pytest.mark.parametrize("name", ["movielens", "nasty", "listless", "own"])
def test_what_is_saved_is_loaded(name: str, tmp_path: Path) -> None:
    """Spec, order of segments, every tensor's bits and type, record, tags and hash; the folder is called by the
    hash."""
    saved = untrained(spec(name), ITEMS, seed=1)
    path = saved.save(tmp_path)
    loaded = Bundle.load(path)
    assert path == tmp_path / saved.hash[:12] == tmp_path / loaded.name
    assert loaded.hash == saved.hash and loaded.spec == saved.spec and loaded.record == saved.record
    assert [s.title for s in loaded.spec.segments] == [s.title for s in saved.spec.segments]
    assert loaded.tensors.keys() == saved.tensors.keys()
    for tensor in saved.tensors:
        a, b = saved.tensors[tensor], loaded.tensors[tensor]
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    for a, b in zip(saved.spec.segments, loaded.spec.segments, strict=True):
        assert saved.encoder_tag(a) == loaded.encoder_tag(b)
    assert loaded.layouts == saved.layouts
    user, items = loaded.defaults("user"), loaded.defaults("item")[None]
    for use in USES:
        assert loaded.fusions[use].scores(user, items) == saved.fusions[use].scores(user, items)
    assert loaded.vocabulary.hashes.tobytes() == ITEMS.hashes.tobytes()
    assert (loaded.defaults("user") == saved.defaults("user")).all()


def test_the_hash_is_of_spec_and_weights() -> None:
    """Not of the record, nor of the order in which tensors were collected."""
    one = untrained(spec("listless"), ITEMS, seed=1)
    same = Bundle(one.spec, dict(reversed(one.tensors.items())), {"epoch": 3})
    assert same.hash == one.hash == untrained(spec("listless"), ITEMS, seed=1).hash
    assert untrained(spec("listless"), ITEMS, seed=2).hash != one.hash
    assert len(one.hash) == 64 and one.name == one.hash[:12]


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_one_flipped_bit_is_found(name: str, tmp_path: Path, bundle: Bundle) -> None:
    """Anywhere in either file; the error names the file and the remedy. (safetensors by itself loads most of them.)"""
    path = bundle.save(tmp_path)
    good = (path / name).read_bytes()
    random = Random(name)
    places = [*range(0, len(good), max(1, len(good) // 500)), *range(min(200, len(good))), len(good) - 1]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << random.randrange(8)
        (path / name).write_bytes(damaged)
        with pytest.raises(BundleError) as caught:
            Bundle.load(path)
        assert str(path) in caught.value.where and caught.value.do, f"byte {place}"
        if name == WEIGHTS:
            assert caught.value.where == str(path / WEIGHTS)
    (path / name).write_bytes(good)
    assert Bundle.load(path).hash == bundle.hash


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
@pytest.mark.parametrize("keep", [0, 1, 8, 0.5, -1])
def test_a_file_that_is_cut_short_is_found(name: str, keep: float, tmp_path: Path, bundle: Bundle) -> None:
    """A full disk can shorten a file without an error."""
    path = bundle.save(tmp_path)
    good = (path / name).read_bytes()
    (path / name).write_bytes(good[: int(len(good) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, ""])
def test_a_bundle_that_is_not_there_is_named(name: str, tmp_path: Path, bundle: Bundle) -> None:
    """One file or the folder is missing: the path, and the command that makes a bundle."""
    path = bundle.save(tmp_path)
    missing = path / name if name else tmp_path / "none"
    if name:
        missing.unlink()
    with pytest.raises(BundleError, match="there is no bundle") as caught:
        Bundle.load(path if name else missing)
    assert str(missing) in caught.value.where and "forebay train" in caught.value.do


def test_a_manifest_with_another_spec_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    """Edited by hand: 4 dimensions made 8, or two segments swapped, is another model than the weights are of."""
    path = bundle.save(tmp_path)
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"dim": 4', '"dim": 8'))
    with pytest.raises(BundleError, match="hash"):
        Bundle.load(path)
    assert text.index('"taste"') < text.index('"liked"')
    swapped = text.replace('"taste"', '"-"').replace('"liked"', '"taste"').replace('"-"', '"liked"')
    (path / MANIFEST).write_text(swapped)
    with pytest.raises(BundleError, match="hash"):
        Bundle.load(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(number: float, tmp_path: Path, bundle: Bundle) -> None:
    """A run that diverged: one such weight is named, by its tensor and its file."""
    weights = bundle.tensors["user.taste.layers.0.weight"].copy()
    weights[0, 0] = number
    path = Bundle(bundle.spec, {**bundle.tensors, "user.taste.layers.0.weight": weights}).save(tmp_path)
    with pytest.raises(BundleError, match=r"user\.taste\.layers\.0\.weight is not finite") as caught:
        Bundle.load(path)
    assert caught.value.where == str(path / WEIGHTS)


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path, bundle: Bundle) -> None:
    """Half a bundle in a .writing- folder: saving and loading go on beside it, and it never gets a bundle's name."""
    left = tmp_path / ".writing-abc" / "bundle"
    left.mkdir(parents=True)
    (left / WEIGHTS).write_bytes(bundle.weights[:100])
    path = bundle.save(tmp_path)
    assert Bundle.load(path).hash == bundle.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == [".writing-abc", bundle.name]


def test_saving_twice_changes_nothing(tmp_path: Path, bundle: Bundle) -> None:
    """The name is the content: the second time there is nothing to write."""
    path = bundle.save(tmp_path)
    before = (path / WEIGHTS).stat().st_mtime_ns
    assert bundle.save(tmp_path) == path
    assert (path / WEIGHTS).stat().st_mtime_ns == before


def test_a_bundle_can_be_moved(tmp_path: Path, bundle: Bundle) -> None:
    """Its folder's name is for people; what it is stands inside."""
    path = bundle.save(tmp_path).rename(tmp_path / "copied")
    assert Bundle.load(path).hash == bundle.hash


def test_loading_needs_no_torch(tmp_path: Path, bundle: Bundle) -> None:
    """A server loads bundles for their fusion and tags, and has neither torch nor numba in it for that."""
    path = bundle.save(tmp_path)
    code = (
        "import sys; from pathlib import Path; from forebay.segments.bundle import Bundle\n"
        "b = Bundle.load(Path(sys.argv[1]))\n"
        "b.fusions, b.layouts, b.vocabulary, b.defaults('user'), [b.encoder_tag(s) for s in b.spec.segments]\n"
        "print(b.hash, [m for m in ('torch', 'numba') if m in sys.modules])"
    )
    answered = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(forebay.__file__).parents[1])},
    )  # fmt: skip
    assert answered.stdout.strip() == f"{bundle.hash} []"
