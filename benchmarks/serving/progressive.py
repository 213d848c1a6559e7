"""Whether top-k pays that reads a candidate's segments in order of worth and stops where a bound says that the rest
cannot matter: what it spares on trained weights, and what a compiled pass of it costs beside the one that is served.

    python benchmarks/serving/progressive.py [--bundle FOLDER] [--users 100] [--rows 1682 100000] [--rounds 20]
        [--folder DIR]

Bundles are trained on MovieLens-100K as `forebay demo` does it, one with a weighted sum for `rank` and one with
affinity; they are kept in `--bundle`, and another run finds them there. For users of the log and 1,000 of its items, or
all 1,682, `spares` lines say what share of (candidate, segment) reads, of bytes and of cache lines is spared, the same
top-k found: `row by row` as a kernel goes, `part by part` over all candidates, and `foretold` where the k-th best score
is known from the start, which no pass by these bounds beats. `bound`: `largest` is one number for each segment, `own`
is kept with each row (4 bytes a segment).

`pass` lines time a lookup's pass over 1,000 rows of shared tables (`pass_dots`), and `scan` lines one over all rows
(`scan_all`), by processor time: as it is `served`, which leaves out segments that the query has nothing for; over `all
segments`; and `bounded`, progressive. All have the same answers, and they take turns. More rows than items are items
drawn again, moved by a tenth of each segment's spread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import progressivekernel
from segmentbounds import (
    KINDS,
    Balls,
    Bounds,
    bounds_of_affinity,
    bounds_of_sum,
    foretold,
    part_by_part,
    row_by_row,
    whole,
)
from trained import Trained, trained

from forebay.arrays import Floats, Int8s, Ints
from forebay.clock import now_ms
from forebay.segments.fusions.contract import InnerProduct, Part
from forebay.segments.fusions.layers import Affinity
from forebay.segments.quantize import quantize
from forebay.segments.state.ids import hash_ids
from forebay.store import indexkernels, onepass
from forebay.store.codec import codec_of
from forebay.store.index import ItemIndex
from forebay.store.indexkeeper import IndexOptions
from forebay.store.onepass import Passed
from forebay.store.rowlayout import LINE, RowLayout
from forebay.store.sharedtable import SharedTable
from forebay.store.tableheader import MARKS, Identity
from forebay.store.tablereader import TableReader

CANDIDATES, BEST, FILL = 1_000, (10, 50, 100), 8_192


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--bundle", type=Path, help="where bundles are, or are kept once they are trained")
    words.add_argument("--users", type=int, default=100)
    words.add_argument("--only-timed", action="store_true", help="leave the lines of what is spared out")
    words.add_argument("--rows", type=int, nargs="*", default=[1_682, 100_000], help="of the passes that are timed")
    words.add_argument("--rounds", type=int, default=20)
    words.add_argument("--folder", help="where the shared tables are for the time; /dev/shm is memory")
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="forebay-progressive-", dir=given.folder) as folder:
        at = given.bundle or Path(folder) / "bundles"
        models = {fusion: trained(fusion, at) for fusion in ("weighted_sum", "affinity")}
        for name, model in ({} if given.only_timed else models).items():
            for line in spared(model, given.users):
                print(json.dumps({"kind": "spares", "rank": name} | line), flush=True)
        for rows in given.rows:
            for line in timed(models["weighted_sum"], rows, given.users, given.rounds, Path(folder) / f"{rows}"):
                print(json.dumps(line), flush=True)


def spared(model: Trained, users: int) -> Iterator[dict[str, Any]]:
    """One line for each use, number of candidates, bound and k."""
    random = np.random.default_rng(0)
    everyone, items = model.vectors("user"), model.vectors("item")
    chosen = random.choice(len(everyone), min(users, len(everyone)), replace=False)
    some = [random.choice(len(items), CANDIDATES, replace=False) for _ in chosen]
    every = [random.permutation(len(items)) for _ in chosen]
    for use, fusion in model.bundle.fusions.items():
        if use == "retrieve" and isinstance(model.bundle.fusions["rank"], Affinity):
            continue  # the same in both bundles
        for kind in KINDS:
            bounds_of = _bounds(fusion, items, kind)
            spans, head = _spans(model, fusion, len(fusion.shape.item) if kind == "own" else 0)
            for candidates in (some, every):
                asked = [bounds_of(everyone[user], rows) for user, rows in zip(chosen, candidates, strict=True)]
                size = len(candidates[0])
                for k in BEST:
                    yield {"use": use, "fusion": fusion.kind, "of": size, "bound": kind, "k": k} | _told(
                        asked, k, spans, head
                    )


def _bounds(fusion: Any, items: Any, kind: Any) -> Callable[[Any, Ints], Bounds]:
    if isinstance(fusion, InnerProduct):
        balls = Balls.around(fusion.shape.item, items, kind)
        return lambda user, rows: bounds_of_sum(fusion, user, items, balls, rows)
    halves = fusion.item_half(items).astype(np.float16).astype(np.float32)  # as they are kept
    width = halves.shape[1] - fusion.shape.packed.item_dim
    own = Balls.around(fusion.shape.packed.item, halves[:, width:], kind)
    return lambda user, rows: bounds_of_affinity(fusion, user, halves, own, rows)


def _spans(model: Trained, fusion: Any, norms: int) -> tuple[list[range], range]:
    """The bytes of a row that each part is, and those that are read first, with so many norms in its head."""
    folds = isinstance(fusion, InnerProduct)
    codec = codec_of(model.bundle, "item")
    layout = RowLayout(codec) if folds else RowLayout(codec, fusion.half_width)
    offsets = {name: offset for name, (_, offset, *_) in (layout.dtype.fields or {}).items()}
    more, head = 4 * norms, offsets["flags"] + 4 * len(codec.segments)
    if folds:
        start = offsets["codes"] + more
        return [range(start + p.start, start + p.stop) for p in fusion.shape.item], range(head + more)
    start, width = offsets["half"] + more, fusion.half_width - fusion.shape.packed.item_dim
    spans = [range(start + 2 * (width + p.start), start + 2 * (width + p.stop)) for p in fusion.shape.packed.item]
    return spans, range(start + 2 * width)


def lines_of(spans: Sequence[range]) -> int:
    """How many cache lines of a row that begins with one they touch."""
    return len({byte // LINE for span in spans for byte in (*span[::LINE], span[-1])})


def _told(asked: list[Bounds], k: int, spans: list[range], head: range) -> dict[str, Any]:
    """Shares spared over all requests. Raises AssertionError where a pass finds other places than the full one."""
    parts = len(spans)
    reads = {"row by row": 0.0, "part by part": 0.0, "foretold": 0.0}
    taken, lines, total = 0, 0, 0
    first: list[int] = []
    for bounds in asked:
        right = whole(bounds.upper[:, -1], k)
        best, read = row_by_row(bounds, k)
        assert best.tolist() == right.tolist(), "row by row finds others"
        again, later = part_by_part(bounds, k)
        assert again.tolist() == right.tolist(), "part by part finds others"
        for name, found in (("row by row", read), ("part by part", later), ("foretold", foretold(bounds, k))):
            reads[name] += 1 - float(found.sum()) / (len(found) * parts)
        in_order = [spans[q] for q in bounds.order.tolist()]
        size = np.cumsum([len(head), *(len(span) for span in in_order)])
        touched = np.array([lines_of([head, *in_order[:m]]) for m in range(parts + 1)])
        taken, lines, total = taken + int(size[read].sum()), lines + int(touched[read].sum()), total + len(read)
        first.append(int(bounds.order[0]))
    return {name: round(found / len(asked), 3) for name, found in reads.items()} | {
        "bytes a row": round(taken / total, 1),
        "lines a row": round(lines / total, 2),
        "first part": max(set(first), key=first.count),
    }


# -- compiled passes


def timed(model: Trained, count: int, users: int, rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Processor time of the passes over `count` rows, which take turns. Raises AssertionError where answers differ."""
    bundle, random = model.bundle, np.random.default_rng(1)
    codec, (codes, scales) = codec_of(bundle, "item"), _more(model, count)
    layout, everyone = RowLayout(codec, 2 * len(codec.segments)), model.vectors("user")
    served = codes.astype(np.float32) * np.repeat(scales, np.diff(codec.bounds), axis=1)
    whole_segments = tuple(Part(n, int(a), int(b)) for n, (a, b) in enumerate(pairwise(codec.bounds)))
    balls = Balls.around(whole_segments, served, "own")
    radii = np.nextafter(balls.radius.astype(np.float32), np.float32(np.inf))
    table = SharedTable(folder, Identity("bench", bundle.hash, layout, partitions=1))
    plain = SharedTable(folder / "plain", Identity("bench", bundle.hash, RowLayout(codec), partitions=1))
    index = ItemIndex(codec.bounds, IndexOptions(flat_rows=1 << 40))
    for first in range(0, count, FILL):
        part = slice(first, min(count, first + FILL))
        names, rows, now = [f"item-{n}" for n in range(first, part.stop)], codec.empty(part.stop - first), now_ms()
        for number, slot in enumerate(codec.segments):
            own = rows["segments"][slot.name]
            own["vector"] = codes[part, codec.bounds[number] : codec.bounds[number + 1]]
            own["scale"], own["as_of"], own["last_event"] = scales[part, number], now, now
        for one in (table, plain):
            places = one.upsert(
                names, rows, [0] * len(names), np.zeros((len(names), one.identity.layout.half_width), "f4")
            )
            assert places.tolist() == list(range(first, part.stop))
        index.upsert(np.arange(first, part.stop), codes[part], scales[part])
    at = 2 * (table.layout.origin + np.arange(count) * table.layout.width) + table.layout.half // 2
    table.words.view(np.float32)[at[:, None] + np.arange(len(codec.segments))] = radii
    readers = {one: TableReader(one.path, one.identity) for one in (table, plain)}
    for (use, fusion), k in itertools.product(bundle.fusions.items(), BEST):
        asked = []
        for user in random.choice(len(everyone), min(users, len(everyone)), replace=False):
            query = fusion.user_half(everyone[user])[0]
            hashes = hash_ids([f"item-{n}" for n in random.choice(count, CANDIDATES, replace=False)])
            asked.append((query, hashes, _worth(query, balls)))
        yield {"kind": "pass", "use": use, "rows": count, "of": CANDIDATES, "k": k} | _passes(
            readers[table], readers[plain], fusion.bias, asked, k, rounds
        )
        yield {"kind": "scan", "use": use, "rows": count, "k": k} | _scans(index, radii, asked, k, max(1, rounds // 4))
    for one in (table, plain):
        one.close()


def _more(model: Trained, count: int) -> tuple[Int8s, Floats]:
    """Codes and scales of `count` items: those of the log first."""
    items, random = model.vectors("item"), np.random.default_rng(2)
    bounds = codec_of(model.bundle, "item").bounds
    drawn = items[
        np.concatenate([np.arange(min(count, len(items))), random.integers(0, len(items), max(0, count - len(items)))])
    ]
    parts = []
    for a, b in pairwise(bounds):
        moved = drawn[:, a:b].copy()
        spread = (items[:, a:b] - items[:, a:b].mean(axis=0)).std()
        moved[len(items) :] += np.float32(0.1 * spread) * random.standard_normal(moved[len(items) :].shape, np.float32)
        parts.append(quantize(moved))
    return np.concatenate([codes for codes, _ in parts], axis=1), np.stack([scale for _, scale in parts], axis=1)


def _worth(query: Floats, balls: Balls) -> tuple[Ints, Floats, Floats, np.float32]:
    """Segments that the query has something for, the worthiest first; the query's norms, its products with the
    centres, and what rounding may come to."""
    slices = [slice(p.start, p.stop) for p in balls.parts]
    lengths = np.array([np.linalg.norm(query[at].astype(np.float64)) for at in slices])
    centred = np.array([query[at].astype(np.float64) @ balls.centre[at] for at in slices])
    order = np.argsort(-lengths * balls.spread, kind="stable")
    most = lengths @ (balls.radius.max(axis=0) + [np.linalg.norm(balls.centre[at]) for at in slices])
    slack = 2.0**-23 * (len(query) + 64) * (most + 1)
    wide = np.nextafter(lengths.astype(np.float32), np.float32(np.inf))
    return order[lengths[order] > 0], wide, centred.astype(np.float32), np.float32(slack)


def _passes(
    ordered: TableReader, plain: TableReader, bias: Any, asked: list[Any], k: int, rounds: int
) -> dict[str, Any]:
    bounds, segments = plain.identity.layout.codec.bounds, len(plain.identity.layout.codec.segments)
    none, gone = np.zeros(0, np.float32), np.zeros(CANDIDATES, np.bool_)
    default, oldest = np.zeros(segments, np.float32), np.ones(segments, np.int64)

    def served(query: Floats, hashes: Ints, _: Any, out: Passed) -> None:
        onepass.pass_dots(
            plain.words,
            plain.layout,
            plain._cells,
            MARKS,
            1,
            hashes,
            gone,
            none,
            oldest,
            query,
            bounds,
            default,
            bias,
            out,
        )

    def all_segments(query: Floats, hashes: Ints, worth: Any, out: Passed) -> None:
        _, lengths, centred, slack = worth
        progressivekernel.pass_ordered(
            plain.words, plain.layout, plain._cells, MARKS, 1, hashes, gone, none, oldest, query, bounds, default, bias,
            np.arange(segments), False, segments, lengths, centred, slack, out,
        )  # fmt: skip

    def bounded(ahead: int) -> Callable[..., None]:
        def ask(query: Floats, hashes: Ints, worth: Any, out: Passed) -> None:
            order, lengths, centred, slack = worth
            progressivekernel.pass_ordered(
                ordered.words, ordered.layout, ordered._cells, MARKS, 1, hashes, gone, none, oldest, query, bounds,
                default, bias, order, True, min(ahead, len(order)), lengths, centred, slack, out,
            )  # fmt: skip

        return ask

    contestants = {
        "served": served, "all segments": all_segments, "bounded, all asked for": bounded(segments),
        "bounded, the first asked for": bounded(1),
    }  # fmt: skip
    outs = {name: Passed.empty(CANDIDATES, segments, k) for name in contestants}
    for one in asked:
        for name, ask in contestants.items():
            ask(*one, outs[name])
        right = outs["served"]
        for out in outs.values():
            assert out.best.tolist() == right.best.tolist(), "a pass finds others"
            assert (out.scores[out.best] == right.scores[right.best]).all(), "a pass scores otherwise"
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds * len(asked)):
        for number, (name, ask) in enumerate(contestants.items()):
            # Of other candidates than the one before: what that one has read lies in the nearest caches.
            one = asked[(turn + number * len(asked) // len(contestants)) % len(asked)]
            started = time.thread_time_ns()
            ask(*one, outs[name])
            spent[name].append((time.thread_time_ns() - started) / 1000)
    return _ratios(spent, "served")


def _scans(index: ItemIndex, radii: Floats, asked: list[Any], k: int, rounds: int) -> dict[str, Any]:
    memory, every, every_segment = index.memory(), np.zeros(0, np.uint8), np.arange(len(index.bounds) - 1)

    def served(query: Floats, _: Any, keys: Floats, heap: Ints) -> int:
        return indexkernels.scan_all(
            memory.words, memory.place, 0, memory.top, index.bounds, query, every, keys, heap, 0
        )

    def ordered(bounded: bool) -> Callable[..., int]:
        def ask(query: Floats, worth: Any, keys: Floats, heap: Ints) -> int:
            order, lengths, centred, slack = worth
            return progressivekernel.scan_ordered(
                memory.words, memory.place, memory.top, index.bounds, query, order if bounded else every_segment,
                bounded, radii, lengths, centred, slack, keys, heap,
            )  # fmt: skip

        return ask

    contestants = {"served": served, "all segments": ordered(False), "bounded": ordered(True)}
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for query, _, worth in asked:
            found = {}
            for name, ask in contestants.items():
                keys, heap = np.empty(k, np.float32), np.empty(k, np.int64)
                started = time.thread_time_ns()
                size = ask(query, worth, keys, heap)
                if turn:
                    spent[name].append((time.thread_time_ns() - started) / 1000)
                found[name] = sorted(zip((-keys[:size]).tolist(), heap[:size].tolist(), strict=True))
            assert all(one == found["served"] for one in found.values()), "a scan finds others"
    return _ratios(spent, "served")


def _ratios(spent: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Medians in µs, and the ratio of each turn to the same turn of the one that is served: its median."""
    found: dict[str, Any] = {f"{name}, µs": round(float(np.median(took)), 1) for name, took in spent.items()}
    for name, took in spent.items():
        if name != base:
            found[f"{name} / {base}"] = round(float(np.median(np.array(took) / np.array(spent[base]))), 3)
    return found


if __name__ == "__main__":
    main()
