"""Encoders of one's own: what is refused, by which error, and when their code is imported at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import BundleError, SpecError
from forebay.segments.encoders import SegmentEncoder, build
from forebay.segments.plugin import own_class
from forebay.segments.spec import Spec, parse_spec
from forebay.segments.state.ids import hash_ids
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader, Vocabulary

from .models import tables, untrained

ITEMS = Vocabulary.of(hash_ids(["i1", "i2"]))
MODULE = """
import torch
from forebay.segments.encoders import Aligned, SegmentEncoder

NUMBER = 3

class Good(SegmentEncoder):
    def __init__(self, reader, items, segment):
        super().__init__(reader, items, segment)
        self.out = Aligned(reader.dense_width, segment.dim)

    def forward(self, dense, sequence, items, length, own):
        return self.out(self.dense(dense, own))

class Joined(Good):
    def forward(self, *inputs):
        return super().forward(*inputs).mean(0, keepdim=True)

class Narrow(Good):
    def forward(self, *inputs):
        return super().forward(*inputs)[:, 1:]

class Failing(Good):
    def forward(self, *inputs):
        raise IndexError("no such row")

class Stranger(torch.nn.Module):
    pass
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> Iterator[None]:
    """A module with classes that fit and that do not, and one that cannot be imported."""
    (tmp_path / "own_room.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("raise ValueError('half written')")
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
    for name in ("own_room", "own_broken"):
        sys.modules.pop(name, None)


def _spec(kind: str, **options: Any) -> Spec:
    given = tables("nasty")
    given["user"]["profile"]["encoder"] = {"kind": kind, **options}
    return parse_spec(given)


def _build(kind: str) -> SegmentEncoder:
    made = _spec(kind, version="1")
    segment = made.side("user")[0]
    return build(SegmentReader(made, segment, Layout.of(made, "user"), ITEMS), len(ITEMS), segment)


def test_a_class_that_fits_is_built() -> None:
    """Those that are refused below differ from it in one thing each."""
    assert type(_build("own_room:Good")).__name__ == "Good"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("own_missing:Good", "cannot be imported"),
        ("own_broken:Good", "half written"),
        ("own_room:Absent", "has no Absent"),
        ("own_room:NUMBER", "is no SegmentEncoder"),
        ("own_room:Stranger", "is no SegmentEncoder"),
        ("own_room:Joined", r"gives \(1, 8\) for 128 entities"),
        ("own_room:Narrow", r"gives \(128, 7\) for 128 entities"),
        ("own_room:Failing", "IndexError: no such row"),
        (":Good", "cannot be imported"),
    ],
)
def test_a_class_that_does_not_fit_is_refused_by_its_name(kind: str, said: str) -> None:
    """The table that names it and a remedy stand beside it."""
    with pytest.raises(BundleError, match=said) as caught:
        _build(kind)
    assert "[user.profile]" in caught.value.where and caught.value.do


def test_a_class_is_checked_against_the_base_that_is_asked_for() -> None:
    """The same reader of names serves other parts than encoders."""
    assert own_class("collections:OrderedDict", dict, "[fusion] rank").__name__ == "OrderedDict"


@pytest.mark.parametrize("version", [{}, {"version": 1}])
def test_a_class_without_a_version_is_refused(version: dict[str, int]) -> None:
    """Nothing else tells old code's vectors from new code's."""
    with pytest.raises(SpecError, match="no version"):
        _spec("own_room:Good", **version)


def test_another_version_is_another_tag() -> None:
    """Same weights, other code: stored rows of the two must not meet."""
    one, two = (untrained(_spec("own_room:Good", version=v), ITEMS, seed=3) for v in ("1", "2"))
    first, second = (b.spec.side("user")[0] for b in (one, two))
    assert one.segment_tensors(first)["out.bias"].tobytes() == two.segment_tensors(second)["out.bias"].tobytes()
    assert one.encoder_tag(first) != two.encoder_tag(second)


def test_reading_a_bundle_imports_no_code_of_its_encoders(tmp_path: Path) -> None:
    """A server has neither the class nor torch: it reads the bundle all the same."""
    folder = untrained(_spec("own_room:Good", version="1"), ITEMS, seed=3).save(tmp_path / "bundles")
    program = (
        "import sys; from pathlib import Path; from forebay.segments.bundle import Bundle; "
        "print(Bundle.load(Path(sys.argv[1])).name, 'own_room' in sys.modules, 'torch' in sys.modules)"
    )
    answered = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    assert answered.stdout.split() == [folder.name, "False", "False"]
