"""`forebay spec check`: a segments.toml as the partition that it declares, and what is odd about it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from forebay.cli import source
from forebay.cli.console import out, print_json, print_table
from forebay.errors import ForebayError
from forebay.segments.lint import Remark, lint, state_bytes
from forebay.segments.spec import SIDES, SegmentSpec, Spec, load_spec
from forebay.segments.spec.words import in_words
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader, Vocabulary

if TYPE_CHECKING:
    from forebay.segments.history.labelcounts import LabelCounts

HEADER_BYTES = 32  # of one segment in a stored row: encoder, two times, scale, flags
_NUMBERS = ("inputs", "state_bytes", "vector_bytes", "flops")


def show(path: Path, as_json: bool, events: str | None = None) -> None:
    """Print each segment's features, input widths, bytes and FLOPs; the state of one entity of each side; and the
    remarks. With `events` also what the label finds in them, and a remark where that is nothing to learn from.

    Raises typer.Exit(1) after that when a remark is an error.
    """
    spec = load_spec(path)
    layouts = {side: Layout.of(spec, side, serving=True) for side in SIDES}
    sides = {side: layouts[side].width * 8 for side in SIDES}
    segments = [_row(spec, s, layouts[s.side]) for s in spec.segments]
    if any(s["flops"] is None for s in segments):  # no torch here, or an own encoder that cannot be had
        segments = [{n: v for n, v in s.items() if n != "flops"} for s in segments]
    remarks = lint(spec)
    counts = _counts(spec, events) if events is not None else None
    if counts is not None and not counts.both:
        remarks.append(Remark("warning", "[label]", f"in this log {counts.problem}", counts.remedy))
    if as_json:
        found: dict[str, Any] = {"segments": segments, "state_bytes": sides, "remarks": [asdict(r) for r in remarks]}
        if counts is not None:
            found["label"] = {"impressions": counts.impressions, "positives": counts.positives}
        print_json(found)
    else:
        columns = tuple(segments[0])
        print_table(columns, [tuple(s.values()) for s in segments], right=[c for c in columns if c in _NUMBERS])
        out.print("state of one entity at most: " + ", ".join(f"{side} {size:,} bytes" for side, size in sides.items()))
        if counts is not None:
            out.print(f"label: {counts.positives:,} of {counts.impressions:,} impressions are positive")
        _print(remarks)
    if any(r.level == "error" for r in remarks):
        raise typer.Exit(1)


def _counts(spec: Spec, events: str) -> LabelCounts:
    from forebay.segments.history.examples import Examples  # it folds: without --from no numba is needed
    from forebay.segments.history.labelcounts import LabelCounts

    return LabelCounts.of(spec.label, Examples.of(spec, source.history(events)))


def _row(spec: Spec, segment: SegmentSpec, layout: Layout) -> dict[str, Any]:
    reader = SegmentReader(spec, segment, layout, Vocabulary(np.zeros(0, np.int64)))
    return {
        "segment": segment.title,
        "side": segment.side,
        "encoder": segment.encoder.kind,
        "features": " · ".join(map(in_words, segment.features)),
        "inputs": reader.dense_width + reader.list_size * (1 + reader.sequence_width),
        "state_bytes": state_bytes(segment, layout),
        "vector_bytes": HEADER_BYTES + segment.dim,
        "flops": _flops(reader, segment),
    }


def _flops(reader: SegmentReader, segment: SegmentSpec) -> int | None:
    """Two for each weight of each linear layer, at each place of a full list, for one entity; recurrent layers, sums
    and activations are not in it. None without torch."""
    try:
        import torch
        from torch import nn

        from forebay.segments.encoders import CANONICAL, build, encode_by_torch
    except ImportError:
        return None
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear)
        total += 2 * layer.in_features * output.numel()

    try:
        encoder = build(reader, 0, segment)
    except ForebayError:
        return None
    for layer in encoder.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(count)
    blank = reader.blank(CANONICAL)
    encode_by_torch(encoder, replace(blank, length=np.full(CANONICAL, reader.list_size, dtype=np.int64)))
    return total // CANONICAL


def _print(remarks: list[Remark]) -> None:
    for remark in remarks:
        out.print(f"\n{remark.level}: {remark.what} ({remark.where})\n  {remark.do}", markup=False)
    if not remarks:
        out.print("\nno remarks")
