"""How many lists are to be searched for a recall, by where the best rows of some queries are."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Floats, Ints
from forebay.store.indexkernels import Rows32
from forebay.store.ivf import Ivf


def ranks_of(ivf: Ivf, query: Floats, lists: Rows32) -> Ints:
    """int64 [n]: as the how many-th, from 0 on, each of `lists` int32 [n] is probed for `query` float32 [dim]. -1
    stands for no list, of a row that is found without one: it has the rank 0."""
    scores = ivf.centroids @ query
    ranks = np.empty(ivf.lists, np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(ivf.lists)
    return np.where(lists >= 0, ranks[lists], 0)


def probes_for(ranks: Ints, recall: float) -> int:
    """The fewest lists that hold a share `recall` of all rows, whose lists have `ranks` int64 [queries, rows]."""
    flat = np.sort(ranks, axis=None)
    place = int(np.ceil(recall * len(flat))) - 1
    return int(flat[max(0, min(place, len(flat) - 1))]) + 1 if len(flat) else 1
