"""`forebay bench backfill`: a million events of the synthetic world into a generation, beside what encoding its final
states alone takes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from forebay.cli import source
from forebay.clock import now_ms
from forebay.segments.bundle import Bundle
from forebay.segments.datasets.planted import Planted
from forebay.segments.datasets.worldoptions import WorldOptions
from forebay.segments.sideencoders import SideEncoders
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_ids
from forebay.segments.training import untrained
from forebay.store.partitionstore import PartitionStore
from forebay.streams.backfill import backfill
from forebay.streams.build import ROWS
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, ensure

EVENTS, PARTITIONS = 1_000_000, 4

Line = dict[str, Any]


def bench(repeats: int, line: Callable[..., Line]) -> list[Line]:
    """The lines of this bench; `line` makes one of its name, values, unit and budget."""
    options = WorldOptions.sized(EVENTS)
    history = Planted(options).history
    bundle = untrained(source.spec(None, "synthetic"), hash_ids([f"i{n}" for n in range(options.items)]))
    cores = min(os.cpu_count() or 1, PARTITIONS)
    alone: list[float] = []
    several: list[float] = []
    shares: list[float] = []
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, DevKafka(Path(folder) / "kafka") as broker:
        for turn in range(repeats):
            for processes, found in ((1, alone), (cores, several)):
                name, topics = f"g{processes}", Topics(f"b{turn}.{processes}.")
                here = Path(folder) / f"{turn}-{processes}"
                ensure(broker.bootstrap, topics, generation=name, partitions=PARTITIONS)
                began = time.perf_counter()
                backfill(
                    bundle, history, name=name, bootstrap=broker.bootstrap, topics=topics, folder=here / "generation",
                    state_folder=here / "state", now_ms=now_ms(), processes=processes,
                )  # fmt: skip
                found.append(time.perf_counter() - began)
                if processes == 1:
                    shares.append(100 * sum(_encoding_s(bundle, side, here / "state") for side in SIDES) / found[-1])
    return [
        line(f"a backfill of {EVENTS:,} events, one process", _rates(alone), "1/s", None, at_most=False),
        line(f"a backfill of {EVENTS:,} events, {cores} processes", _rates(several), "1/s", None, at_most=False),
        line("encoding its final states alone, of its time in one process", shares, "%", 60, at_most=False),
    ]


def _rates(seconds: list[float]) -> list[float]:
    return [EVENTS / one for one in seconds]


def _encoding_s(bundle: Bundle, side: Side, folder: Path) -> float:
    """How long it takes to read the features of a side's states and to encode them, in one thread (s)."""
    layout, encoders = bundle.layouts[side], SideEncoders(bundle, side)
    took = 0.0
    for partition in range(PARTITIONS):
        with PartitionStore.open(folder / f"{side}-{partition}", create=False) as store:
            names, states = [], []
            for name, row in store.scan():
                names.append(name.decode())
                states.append(layout.unpack(row.state))
        rows = np.stack(states) if states else np.zeros((0, layout.width), np.int64)
        hashes = hash_ids(names)
        began = time.perf_counter()
        for at in range(0, len(rows), ROWS):
            part = slice(at, at + ROWS)
            encoders.encode_each([(place, rows[part], hashes[part]) for place in range(len(encoders.segments))])
        took += time.perf_counter() - began
    return took
