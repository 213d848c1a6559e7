"""Figures of several runs: median and spread, the rate between two commits, and the slope of a line."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forebay.cli.console import out, print_json, print_table


@dataclass(frozen=True)
class Goal:
    """What a figure is to be: at most, or at least, `value`."""

    value: float
    at_most: bool = False

    def met(self, measured: float) -> bool:
        return measured <= self.value if self.at_most else measured >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {number(self.value)}"


@dataclass(frozen=True)
class Figure:
    """One line of a result: the values of all repeats."""

    name: str
    values: Sequence[float]
    unit: str
    goal: Goal | None = None

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    def line(self) -> dict[str, Any]:
        """As `--json` has it."""
        goal = None if self.goal is None else {"value": self.goal.value, "at_most": self.goal.at_most}
        met = None if self.goal is None else self.goal.met(self.median)
        return {
            "name": self.name, "median": self.median, "low": min(self.values), "high": max(self.values),
            "n": len(self.values), "unit": self.unit, "goal": goal, "met": met,
        }  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """So many events were committed at a moment (monotonic s), and so much CPU used until then by the process and by
    the broker (s)."""

    at_s: float
    events: int
    cpu_s: float = 0.0
    broker_s: float = 0.0


@dataclass(frozen=True)
class Rate:
    """What was done between the first commit and the last: both ends are commits, so that rare ones (each 5 s) count
    neither for nor against a contestant, and its start does not count."""

    events: int
    seconds: float
    cpu_us: float  # of the process, for an event
    broker_us: float

    @property
    def per_s(self) -> float:
        return self.events / self.seconds


def rate_of(seen: Sequence[Seen]) -> Rate:
    """Between the first and the last commit that brought events. Raises ValueError where there are fewer than two."""
    commits = [now for before, now in itertools.pairwise(seen) if now.events > before.events]
    if seen and seen[0].events:
        commits.insert(0, seen[0])
    if len(commits) < 2:
        raise ValueError(f"{len(commits)} commits say nothing of a rate: give it more events, or more seconds")
    first, last = commits[0], commits[-1]
    events = last.events - first.events
    return Rate(
        events, last.at_s - first.at_s, (last.cpu_s - first.cpu_s) * 1e6 / events,
        (last.broker_s - first.broker_s) * 1e6 / events,
    )  # fmt: skip


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through the points, by least squares: the values' unit for each minute."""
    return float(np.polyfit(np.asarray(seconds) / 60, np.asarray(values), 1)[0])


def number(value: float) -> str:
    """Four digits, or all of a large one: never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def words_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the file's own text, with `--json` and `--repeats`."""
    words = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--repeats", type=_at_least_one, default=3, help="of each measurement, interleaved (3)")
    words.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return words


def tell(figures: Sequence[Figure], *, as_json: bool, more: Mapping[str, Any] = {}) -> None:
    """Print the result: a table for people, or one JSON document. `more` is what else it should say."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    lines = [figure.line() for figure in figures]
    if as_json:
        print_json({"machine": machine, **more, "lines": lines})
        return
    out.print(machine)
    for name, value in more.items():
        out.print(f"{name}: {value}", markup=False)
    verdict = {True: "met", False: "missed", None: ""}
    rows = [
        (f.name, number(f.median), f"{number(min(f.values))} – {number(max(f.values))}", f.unit, f.goal or "",
         verdict[line["met"]])
        for f, line in zip(figures, lines, strict=True)
    ]  # fmt: skip
    print_table(("what", "median", "spread", "unit", "goal", ""), rows, right=("median", "spread", "goal"))


def _at_least_one(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no count of 1 or more")
    return int(text)
