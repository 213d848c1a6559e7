"""What segments know at many moments: one replay of a side answers every question of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forebay.arrays import Ints
from forebay.segments.history.loglists import ListTable
from forebay.segments.history.replay import replay
from forebay.segments.history.scratch import Scratch
from forebay.segments.history.sidelog import SideLog
from forebay.segments.spec import SegmentSpec
from forebay.segments.state.kept import Kept
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader


@dataclass(frozen=True)
class Question:
    """What `segments`, all of one side, know of the entities `rows` int64 [n] strictly before `times` int64 [n]
    (ms)."""

    rows: Ints
    times: Ints
    segments: Sequence[SegmentSpec]


def answers(
    layout: Layout,
    log: SideLog,
    readers: Mapping[str, SegmentReader],
    questions: Sequence[Question],
    scratch: Scratch,
) -> list[dict[str, Kept]]:
    """For each question its segments' read-outs by title. What is too large for memory lies in `scratch`."""
    bounds = np.cumsum([0, *(len(q.rows) for q in questions)])
    dense = [
        {s.title: scratch.floats(len(q.rows), readers[s.title].dense_width) for s in q.segments} for q in questions
    ]
    rows = np.concatenate([np.zeros(0, np.int64), *(q.rows for q in questions)])
    times = np.concatenate([np.zeros(0, np.int64), *(q.times for q in questions)])
    for asked, states in replay(layout, log, rows, times, lists=False):
        whose = np.searchsorted(bounds, asked, side="right") - 1
        for number in np.unique(whose).tolist():
            own = whose == number
            places = asked[own] - bounds[number]
            for title, found in dense[number].items():
                found[places] = readers[title].dense(states[own])
    tables = {s.title: ListTable.of(readers[s.title], layout, log) for q in questions for s in q.segments}
    hashes = np.append(log.hashes, 0)  # of nobody, at -1
    return [
        {
            title: Kept(
                found,
                readers[title].own(hashes[question.rows]).astype(np.int32),
                tables[title].at(question.rows, question.times),
            )
            for title, found in dense[number].items()
        }
        for number, question in enumerate(questions)
    ]
