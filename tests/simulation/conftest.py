"""The world of a seed, run to its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forebay.segments.bundle import Bundle
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES

from .world import World, keep_nothing, told_by

ACTIONS = 120


@pytest.fixture(scope="session")
def simulate(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """Run the world of a seed, and check it; what goes wrong names the seed."""
    encoders = {side: SideEncoders(bundle, side) for side in SIDES}
    built = keep_nothing(bundle, tmp_path_factory.mktemp("built"))

    def run(seed: int, *, breaks: bool = False, warm: bool = False) -> World:
        world = World(seed, bundle, encoders, tmp_path_factory.mktemp(f"seed-{seed}-"), built, breaks=breaks, warm=warm)
        with told_by(seed, world):
            world.run(ACTIONS * (3 if warm else 1))
        return world

    return run
