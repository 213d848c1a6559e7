"""The built-in encoders by kernel, through torch in float32, and through torch in bfloat16: what a user's row costs.

    python benchmarks/streams/precision.py --repeats 15

One thread, canonical batches of 128 rows, encoders with random weights over lists of 1 to 30 entries. bfloat16 is
torch's autocast of the CPU: layers in bfloat16, their results added to in float32. Told are CPU microseconds a row, and
by how much a bfloat16 vector is off, as a share of its largest number. A line of /proc/cpuinfo says whether the CPU has
instructions for it (avx512_bf16, amx_bf16).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from figures import Figure, tell, words_of
from forebay.arrays import Floats
from forebay.segments.encoders import CANONICAL, SegmentEncoder, build, runner, tensors
from forebay.segments.spec import EncoderSpec
from forebay.segments.state.readout import Inputs, SegmentReader
from rig import movielens

ROWS, ITEMS = 8 * CANONICAL, 20_000
TITLES = ("user.profile", "user.recent", "user.taste", "user.next")
Way = Callable[[Inputs], object]


def main() -> int:
    given = words_of(__doc__).parse_args()
    torch.set_num_threads(1)
    bundle, random = movielens(ITEMS), np.random.default_rng(0)
    segments = {segment.title: segment for segment in bundle.spec.side("user")}
    asked = [segments[title] for title in TITLES]
    asked += [replace(segments["user.recent"], encoder=EncoderSpec(kind)) for kind in ("bag", "gru")]
    found: dict[str, list[float]] = defaultdict(list)
    jobs: list[tuple[str, Inputs, dict[str, Way]]] = []
    for segment in asked:
        reader = bundle.reader(segment)
        encoder = build(reader, ITEMS, segment).eval()
        inputs, name = _random(random, reader), f"{segment.title}, {segment.encoder.kind}"
        ways: dict[str, Way] = {"float32": lambda i, e=encoder: _float32(e, i)}  # type: ignore[misc]
        if segment.encoder.kind not in ("bag", "gru"):
            ways["kernel"] = runner(encoder)
        try:
            off = np.abs(_bfloat16(encoder, inputs) - _float32(encoder, inputs)).max(1)
        except RuntimeError as error:
            print(f"{name}: bfloat16 fails: {error}")
        else:
            ways["bfloat16"] = lambda i, e=encoder: _bfloat16(e, i)  # type: ignore[misc]
            peak = np.maximum(np.abs(_float32(encoder, inputs)).max(1), 1e-9)
            found[f"{name}: a bfloat16 vector is off by at most"].append(float((off / peak).max()))
        jobs.append((name, inputs, ways))
    for _ in range(given.repeats):
        for name, inputs, ways in jobs:
            for way, run in ways.items():
                started = time.thread_time()
                run(inputs)
                found[f"{name}: {way}"].append((time.thread_time() - started) * 1e6 / ROWS)
    figures = [Figure(n, v, "of its peak" if "off by" in n else "µs a row") for n, v in sorted(found.items())]
    tell(figures, as_json=given.json, more={"CPU has": ", ".join(_flags()) or "no bfloat16"})
    return 0


def _random(random: np.random.Generator, reader: SegmentReader) -> Inputs:
    """Numbers of about the size that a read-out has, and full lists for a third of the rows."""
    blank = reader.blank(ROWS)
    dense = random.random(blank.dense.shape, np.float32)
    length = np.minimum(random.integers(1, 46, ROWS), reader.list_size)
    there = np.arange(reader.list_size) < length[:, None]
    sequence = (random.random(blank.sequence.shape) < 0.15).astype(np.float32) * there[:, :, None]
    items = random.integers(0, ITEMS, blank.items.shape) * there
    return Inputs(dense, sequence.astype(np.float32), items, length, blank.own)


def _batches(inputs: Inputs) -> list[Sequence[Tensor]]:
    return [tensors(inputs.take(slice(start, start + CANONICAL))) for start in range(0, len(inputs), CANONICAL)]


@torch.inference_mode()
def _float32(encoder: SegmentEncoder, inputs: Inputs) -> Floats:
    found: Floats = torch.cat([encoder(*batch) for batch in _batches(inputs)]).numpy()
    return found


@torch.inference_mode()
def _bfloat16(encoder: SegmentEncoder, inputs: Inputs) -> Floats:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found: Floats = torch.cat([encoder(*batch).float() for batch in _batches(inputs)]).numpy()
    return found


def _flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return [flag for flag in ("avx512_bf16", "amx_bf16") if flag in text.split("\n\n")[0].split()]


if __name__ == "__main__":
    raise SystemExit(main())
