"""What people read at a terminal: tables, progress, errors. Programs read `--json` on standard output instead."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from forebay.errors import ForebayError, MissingExtra

PIPED_WIDTH = 140  # where there is no terminal to ask: a table is then cut for a page, not for 80 columns
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)
LINE_EVERY_S = 5.0  # where no bar can be drawn


def print_json(data: Any) -> None:
    """One JSON document, for programs."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A plain table; `right` names the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    out.print(table)


def print_error(error: ForebayError) -> None:
    """What and where on one line, the remedy under it; a missing package and its command are one line, to be copied whole."""
    if isinstance(error, MissingExtra):
        err.print(f"[bold red]error:[/] {_escape(str(error))}")
        return
    where = f" ({error.where})" if error.where else ""
    err.print(f"[bold red]error:[/] {_escape(error.what + where)}")
    if error.do:
        err.print(f"       {_escape(error.do)}")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """`advance(done, total)` draws a bar with rate and time left; plain lines where there is no terminal."""
    started = time.monotonic()
    if err.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>3.0f} %"), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True),
        )  # fmt: skip
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(label, total=None, rate="")

            def draw(done: int, total: int) -> None:
                rate = done / max(time.monotonic() - started, 1e-3)
                bar.update(task, completed=done, total=total, rate=f"{rate:,.0f} {unit}/s")

            yield draw
        return
    last = started

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            err.print(f"      {label}: {done:,} of {total:,} {unit}")

    yield line


def budget(name: str, target: float, measured: float, unit: str, *, at_most: bool) -> Mapping[str, object]:
    """One line of the `budgets` list that bench verbs print with --json."""
    met = measured <= target if at_most else measured >= target
    return {"name": name, "target": target, "measured": measured, "unit": unit, "met": met}


def seconds(ms: int | None, now_ms: int) -> str:
    """How long ago, in the largest fitting unit; "–" for never."""
    if ms is None or ms <= 0:
        return "–"
    age = max(0.0, (now_ms - ms) / 1000)
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if age >= 2 * size:
            return f"{age / size:.0f} {unit}"
    return f"{age:.2f} s" if age < 10 else f"{age:.0f} s"
