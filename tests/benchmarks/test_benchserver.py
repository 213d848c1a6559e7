"""A small run of `forebay bench server`: real server processes, real clients, and a writer beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.cli.bench import _line
from forebay.cli.benchclients import Clients, Round, clients_of
from forebay.cli.benchfour import bundle_of
from forebay.cli.benchnode import Node, node_of_benches
from forebay.cli.benchserver import K, Place, Size, _asked, _hold, _lines, bench, scores_of, writing
from forebay.errors import ServerUnavailable, StoreError

SIZE = Size(items=2_000, users=100, seconds=0.3, rows_per_s=500)


def _named(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in lines}


def test_every_kind_of_round_is_told_beside_its_budget() -> None:
    """One process and two, both media, one client and four, alone and beside the writer."""
    told = _named(bench(1, _line, SIZE))
    for processes in ("one process", "two processes"):
        for media in ("msgpack", "JSON"):
            one, four = f"{processes}, {media}, one client", f"{processes}, {media}, 4 clients"
            budgets = {name: told[name]["target"] for name in told if name.startswith((one, four))}
            assert budgets == {
                f"{one}, p50": None,
                f"{one}, p99": 1_000,
                f"{one}, lookups": 3_000,
                f"{one}, CPU of the servers": 230,
                f"{one}, beside the writer, p99": None,
                f"{one}, beside the writer, p99 of what it is alone": 2.0,
                f"{four}, p99": None,
                f"{four}, lookups": 4_500,
                f"{four}, CPU of the servers": 230,
                f"{four}, beside the writer, p99": None,
                f"{four}, beside the writer, p99 of what it is alone": 2.0,
            }
            assert all(told[name]["median"] > 0 for name in budgets)
            assert 0 < told[f"{one}, p50"]["median"] <= told[f"{one}, p99"]["median"]
    assert told["rows that the writer wrote"]["median"] > 0


def test_rises_are_those_of_one_repeat_and_rates_have_floors() -> None:
    """The machine's speed drifts: a slow repeat is slow in both."""

    def rounds(*micros: float) -> list[Round]:
        return [Round(np.full(10, one, np.float32), 1e6 / one, 200.0, 50.0) for one in micros]

    place = Place(2, False, 1, False)
    told = _named(list(_lines({place: rounds(100, 1000), place._replace(writer=True): rounds(150, 2000)}, _line)))
    rise = told["two processes, JSON, one client, beside the writer, p99 of what it is alone"]
    assert (rise["low"], rise["high"], rise["at_most"]) == (pytest.approx(1.5), pytest.approx(2.0), True)
    assert told["two processes, JSON, one client, lookups"]["at_most"] is False


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with node_of_benches(
        bundle_of(8, "affinity"), tmp_path_factory.mktemp("node"), items=SIZE.items, users=SIZE.users
    ) as made:
        yield made


@pytest.mark.parametrize("packed", [True, False], ids=["msgpack", "JSON"])
def test_an_answer_is_held_against_scores_that_are_computed_here(node: Node, packed: bool) -> None:
    """The best k of the 1,000, and other scores than those end the bench."""
    asked, scores = _asked(node, packed, SIZE), scores_of(bundle_of(8, "affinity"), node.url)
    with clients_of(asked, 1) as clients:
        assert len(clients.check()) == K
        _hold(clients, asked, scores)
        with pytest.raises(StoreError, match="was right"):
            _hold(clients, asked, lambda user, items: scores(user, items) + 1)


def test_what_the_writer_wrote_is_what_the_servers_answer_with(node: Node) -> None:
    """It goes the way of a replica's batches: through the copy, into tables that the server has mapped."""
    bundle, items = bundle_of(8, "affinity"), [f"i{n}" for n in range(50)]
    scores = scores_of(bundle, node.url)
    before = scores("u0", items)
    with writing(node.copy, 5_000, 50) as done, clients_of(_asked(node, True, SIZE), 1) as clients:
        clients.round(1, 0.2, node.cpu_s)
    assert done.rows >= 50 and done.per_s > 0
    assert (scores("u0", items) != before).all()


def test_a_client_that_ends_is_an_error_of_the_bench(node: Node, tmp_path: Path) -> None:
    """Neither a hang nor a figure."""
    with clients_of(_asked(node, True, SIZE), 1) as clients:
        assert isinstance(clients, Clients)
        clients.processes[0].kill()
        clients.processes[0].wait()
        with pytest.raises(ServerUnavailable, match="has ended"):
            clients.check()
    with pytest.raises(ServerUnavailable, match="has ended"), clients_of({}, 1):
        pass
