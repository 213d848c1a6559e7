"""Which batches of foreign records cannot be translated yet, for the Intake and for people's commands alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from forebay.streams.sources.translator import Translator
from forebay.streams.worker.batch import PartitionBatch

PAUSE_S = 0.1


def waiting(
    batches: Sequence[PartitionBatch], translators: Mapping[int, Translator], patience_s: float = 0.0
) -> dict[int, str]:
    """Why some of `batches` cannot be translated, by their places in it; what is not named can be, until the next call.
    `translators` are by the batches' partitions: a batch without one never waits.

    Every Translator is asked once for all of its batches, and again until `patience_s` are over. A call to each takes
    half a second at most.
    """
    places: dict[Translator, list[int]] = {}
    for place, batch in enumerate(batches):
        if (translator := translators.get(batch.partition)) is not None:
            places.setdefault(translator, []).append(place)
    deadline = time.monotonic() + patience_s
    while True:
        found = {
            place: reason
            for translator, mine in places.items()
            for place, reason in zip(mine, translator.waits([batches[place] for place in mine]), strict=True)
            if reason
        }
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(PAUSE_S)
