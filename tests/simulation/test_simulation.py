"""Law 1 and 6 under any order of events that a seed can draw: see world.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES

from .world import World, told_by

ACTIONS = 120
BLOCK = 20
ONE = os.environ.get("SEED")
SEEDS = [int(ONE)] if ONE else range(int(os.environ.get("SEEDS", "200")))


@pytest.fixture(scope="module")
def simulate(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], World]:
    """Run the world of a seed to its end."""
    encoders = {side: SideEncoders(bundle, side) for side in SIDES}

    def run(seed: int) -> World:
        world = World(seed, bundle, encoders, tmp_path_factory.mktemp(f"seed-{seed}-"))
        with told_by(seed, world):
            world.run(ACTIONS)
        return world

    return run


@pytest.mark.parametrize("start", SEEDS[::BLOCK], ids=lambda start: f"from-{start}")
def test_whatever_happens_every_event_counts_once(start: int, simulate: Callable[[int], World]) -> None:
    """Nothing lost, nothing doubled, no vector of another state, no claim past what is applied, and an end to the
    work."""
    for seed in SEEDS[start - SEEDS[0] :][:BLOCK]:
        simulate(seed)
