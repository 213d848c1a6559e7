"""Law 1 and 6 under any order of events that a seed can draw: see world.py."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from forebay.segments.spec import SIDES
from forebay.telemetry import add_hook

from .remains import digest
from .world import GENERATION, TOPICS, World

BLOCK = 20
ALL = [
    *TOPICS.sources, *(TOPICS.events(side) for side in SIDES), TOPICS.catalogue,
    *(TOPICS.vectors(GENERATION, side) for side in SIDES),
]  # fmt: skip
ONE = os.environ.get("SEED")
SEEDS = [int(ONE)] if ONE else range(int(os.environ.get("SEEDS", "200")))


@pytest.mark.parametrize("start", SEEDS[::BLOCK], ids=lambda start: f"from-{start}")
def test_whatever_happens_every_event_counts_once(start: int, simulate: Callable[[int], World]) -> None:
    """Nothing lost, nothing doubled, no vector of another state, no claim past what is applied, and an end to the
    work."""
    for seed in SEEDS[start - SEEDS[0] :][:BLOCK]:
        simulate(seed)


@pytest.mark.parametrize("start", SEEDS[: len(SEEDS) // 4 or 1 : BLOCK], ids=lambda start: f"from-{start}")
def test_a_source_that_stands_still_loses_and_claims_nothing(start: int, simulate: Callable[..., World]) -> None:
    """The same where schemas break, and sources stand still until they are well or an operator says so."""
    stood = 0
    for seed in SEEDS[start - SEEDS[0] :][:BLOCK]:
        stood += any(step.startswith("resumed") for step in simulate(seed, breaks=True).trace)
    assert stood or len(SEEDS) == 1


def test_what_was_kept_warm_is_as_good_as_what_was_lost(simulate: Callable[..., World]) -> None:
    """The same where each process keeps the other one's state warm, and takes over with it."""
    used = []
    remove = add_hook(lambda name, _: used.append(name) if name == "standby_used" else None)
    for seed in SEEDS[: max(8, len(SEEDS) // 20)]:  # one takes over with it in every second world or so
        simulate(seed, warm=True)
    remove()
    assert used or len(SEEDS) < 8


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_seed_replays_exactly(seed: int, simulate: Callable[[int], World]) -> None:
    """The same actions, and the same bytes in every topic."""
    first, second = simulate(seed), simulate(seed)
    assert first.trace == second.trace
    assert digest(first.log, ALL) == digest(second.log, ALL)
