"""Bundles that were trained on MovieLens-100K, one for each fusion for `rank`, and the vectors of its users and items
as they are stored: for benchmarks of what depends on weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forebay.arrays import Floats, Int8s
from forebay.cli import source
from forebay.cli.console import err
from forebay.segments.bundle import Bundle
from forebay.segments.history.examples import Examples
from forebay.segments.history.replay import snapshots
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side, Spec, parse_spec
from forebay.segments.state.kept import CHUNK
from forebay.segments.state.layout import Layout
from forebay.segments.training import RetrieveOptions, TrainingOptions, train


@dataclass(frozen=True)
class Trained:
    """A bundle, and of each side `codes` int8 [n, dims of all segments] and `scales` float32 [n, segments]."""

    bundle: Bundle
    codes: dict[Side, Int8s]
    scales: dict[Side, Floats]

    def vectors(self, side: Side) -> Floats:
        """float32 [n, dims], as they are served."""
        dims = [segment.dim for segment in self.bundle.spec.side(side)]
        found: Floats = self.codes[side].astype(np.float32) * np.repeat(self.scales[side], dims, axis=1)
        return found


def trained(fusion: str, folder: Path) -> Trained:
    """The bundle that lies in `folder`/`fusion`; it is trained if none does, in a minute or two. States are those at
    the end of the log."""
    own, history = folder / fusion, source.history("movielens")
    there = sorted(own.glob("*/manifest.json"))
    if there:
        bundle = Bundle.load(there[0].parent)
    else:
        spec = spec_of(fusion)
        # As the demo trains: without teachers, and without the epochs that make sure that nothing more is gained.
        options = TrainingOptions.of(
            spec, distill=0.0, weight_decay=1.0, learning_rate=1e-3, epochs=4, retrieve=RetrieveOptions(epochs=6)
        )
        err.print(f"      training, {fusion} for rank", markup=False)
        bundle = train(spec, history, options)
        bundle.save(own)
    examples, codes, scales = Examples.of(bundle.spec, history), dict[Side, Int8s](), dict[Side, Floats]()
    for side in SIDES:
        log, encoders = examples.logs[side], SideEncoders(bundle, side)
        rows = np.arange(len(log.entities))
        states = snapshots(Layout.of(bundle.spec, side), log, rows, np.full(len(rows), int(examples.times.max()) + 1))
        parts = []
        for at in range(0, len(rows), CHUNK):
            jobs = [
                (place, states[at : at + CHUNK], log.hashes[at : at + CHUNK]) for place in range(len(encoders.segments))
            ]
            parts.append(encoders.encode_each(jobs))
        codes[side] = np.concatenate([np.concatenate([e.vectors for e in part], axis=1) for part in parts])
        scales[side] = np.concatenate([np.stack([e.scale for e in part], axis=1) for part in parts])
    return Trained(bundle, codes, scales)


def spec_of(fusion: str) -> Spec:
    """The model of MovieLens with that fusion for `rank`, over the same segments."""
    data = json.loads(source.spec(None, "movielens").canonical)
    if fusion != "affinity":
        data["fusion"]["rank"]["kind"] = fusion
        data["fusion"]["rank"].pop("hidden", None)
    return parse_spec(data)
