"""Item halves as they lie in rows of shared tables: float16, or int8 with a scale for each of their parts.

float16 is off by at most 2^-11 of each number, int8 by half of a 127th of the greatest one of its part: see
docs/operating.md for what that does to scores.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from forebay.arrays import Floats, Ints
from forebay.errors import ConfigError
from forebay.segments.quantize import dequantize, quantize
from forebay.store.atomics import half_to_float
from forebay.store.kernels import _bare
from forebay.store.rowlayout import Layout

HalfForm: TypeAlias = Literal["f16", "int8"]
HALF_FORMS: tuple[HalfForm, ...] = ("f16", "int8")
_MOST = np.float32(np.finfo(np.float16).max)


def half_form(name: str) -> HalfForm:
    """The form that the setting `halves` names. Raises ConfigError."""
    for form in HALF_FORMS:
        if form == name:
            return form
    raise ConfigError(f"halves = {name!r}", do=f"Use one of {', '.join(HALF_FORMS)}")


def put_halves(images: npt.NDArray[np.void], halves: Floats, parts: tuple[int, ...]) -> None:
    """Write halves float32 [n, half_width] into rows. `parts` are the bounds of the parts with a scale each; none of
    them means float16."""
    if not parts:
        images["half"] = np.clip(halves, -_MOST, _MOST)
        return
    for n, (start, stop) in enumerate(pairwise(parts)):
        images["half"][:, start:stop], images["half_scale"][:, n] = quantize(halves[:, start:stop])


def halves_in(images: npt.NDArray[np.void], parts: tuple[int, ...]) -> Floats:
    """float32 [n, half_width]: what `put_halves` wrote. The twin of `load_half`, to the bit."""
    if not parts:
        found: Floats = images["half"].astype(np.float32)
        return found
    pairs = enumerate(pairwise(parts))
    return np.concatenate([dequantize(images["half"][:, a:b], images["half_scale"][:, n]) for n, (a, b) in pairs], 1)


@_bare
def load_half(
    bits: npt.NDArray[np.uint16], codes: npt.NDArray[np.int8], scales: Floats, layout: Layout, parts: Ints, at: int,
    half: Floats,
) -> Any:  # fmt: skip
    """The half of the row at word `at` into `half` float32 [half_width]. The table's words come as three types."""
    if len(parts) == 0:
        begin = np.uint64(4 * at + layout.half)
        for k in range(np.uint64(layout.half_width)):
            half[k] = half_to_float(bits[begin + k])
        return
    start, scale_at = np.uint64(8 * at + 2 * layout.half), 2 * at + layout.half_scale
    for n in range(len(parts) - 1):
        scale = scales[scale_at + n]
        for k in range(np.uint64(parts[n]), np.uint64(parts[n + 1])):
            half[k] = np.float32(codes[start + k]) * scale


@_bare
def half_words(layout: Layout, parts: Ints) -> tuple[Any, Any]:
    """The first and the last of the words of a row that hold its half, with its scales; the first begins a line."""
    last = 2 * layout.half + (layout.half_width if len(parts) else 2 * layout.half_width)
    return layout.half_scale // 2 // 8 * 8, (last + 7) // 8
