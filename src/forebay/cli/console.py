"""What people read at a terminal: tables, progress, errors. Programs read `--json` on standard output instead."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from forebay.errors import ForebayError, MissingExtra

PIPED_WIDTH = 140  # where there is no terminal to ask, and COLUMNS does not say: a page is wider than 80 columns
_ASK = sys.stdout.isatty() or "COLUMNS" in os.environ
out = Console(highlight=False, soft_wrap=True, width=None if _ASK else PIPED_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)
GAP = 2  # spaces between columns
LINE_EVERY_S = 5.0  # where no bar can be drawn


def print_json(data: Any) -> None:
    """One JSON document, for programs."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A plain table; `right` names the columns of numbers. Nothing is ever cut, so that a name can be copied.

    Text is wrapped between words where the terminal is narrow. Where not even single words fit, each row is a block of
    lines.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = _widths(columns, cells, right, out.width)
    if widths is None:
        _print_blocks(columns, cells)
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", width=width)
    for row in cells:
        table.add_row(*(Text("\n".join(_lines(cell, width))) for cell, width in zip(row, widths, strict=True)))
    out.print(table)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], room: int) -> list[int] | None:
    """Characters of each column: as wide as it would be, and the widest text one less until all fit. None when words do
    not."""
    widths, least = [], []
    for place, name in enumerate(columns):
        texts = [row[place] for row in rows]
        whole = max(map(cell_len, texts), default=0)
        word = max((cell_len(w) for t in (name, *texts) for w in t.split()), default=0)
        widths.append(max(cell_len(name), whole))
        least.append(max(word, whole) if name in right else word)  # of a number and its unit, both stay on a line
    room -= GAP * (len(columns) - 1)
    while sum(widths) > room:
        spare, place = max((width - low, place) for place, (width, low) in enumerate(zip(widths, least, strict=True)))
        if spare <= 0:
            return None
        widths[place] -= 1
    return widths


def _print_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first cell that says something heads its row's block; the others follow beside their columns' names, or under
    them.

    A word that is longer than a line is left to the terminal, which wraps it and copies it whole.
    """
    margin = max(map(cell_len, columns)) + 2 * GAP
    for row in rows:
        head, *rest = [place for place, cell in enumerate(row) if cell] or [0]
        for line in _lines(row[head], out.width):
            out.print(Text(line))
        for place in rest:
            name = " " * GAP + columns[place]
            beside = max(map(cell_len, row[place].split())) <= out.width - margin
            indent = margin if beside else 2 * GAP
            if not beside:
                out.print(Text(name))
            for number, line in enumerate(_lines(row[place], out.width - indent)):
                named = beside and number == 0
                out.print(Text((name + " " * (indent - cell_len(name)) if named else " " * indent) + line))


def _lines(text: str, room: int) -> list[str]:
    """`text` in lines of at most `room` characters; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and cell_len(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def print_error(error: ForebayError) -> None:
    """What and where on one line, the remedy under it; a missing package and its command are one line, to be copied
    whole."""
    if isinstance(error, MissingExtra):
        err.print(f"[bold red]error:[/] {_escape(str(error))}")
        return
    where = f" ({error.where})" if error.where else ""
    err.print(f"[bold red]error:[/] {_escape(error.what + where)}")
    if error.do:
        err.print(f"       {_escape(error.do)}")


def warn(remarks: Sequence[str]) -> None:
    """A line on standard error for each: the command goes on."""
    for remark in remarks:
        err.print(f"[bold yellow]warning:[/] {_escape(remark)}")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """`advance(done, total)` draws a bar with rate and time left; plain lines where there is no terminal."""
    started = time.monotonic()
    if err.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>3.0f} %"),
            MofNCompleteColumn(),
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
