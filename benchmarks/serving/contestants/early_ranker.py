"""Prints the milliseconds that the tuned early-interaction ranker takes for 1,000 pairs of one user, on one thread.

Features are already read and in memory, so that the network alone is timed. Its weights are those before training.
"""

from __future__ import annotations

import sys

import torch

from forebay.cli import source
from forebay.segments.evaluation.bench import early_ms
from forebay.segments.training import TrainingOptions
from forebay.segments.training.early import Early, EarlyOptions
from forebay.segments.training.material import Material, Parts


def main() -> int:
    spec = source.spec(None, "movielens")
    options = TrainingOptions.of(spec)
    material = Material.of(spec, Parts.of(spec, source.history("movielens"), options), options)
    torch.manual_seed(0)
    model = Early(material, EarlyOptions()).eval()
    inputs = {s.title: material.validation.inputs[s.title] for s in spec.fusions["rank"].segments}
    print(early_ms(model, inputs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
