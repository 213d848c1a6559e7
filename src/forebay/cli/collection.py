"""Python's collector of garbage in a process that runs for weeks."""

from __future__ import annotations

import gc

# A batch's records and letters are no cycles: they are gone without a collection, and need not cause one.
THRESHOLDS = (20_000, 20, 20)


def settle() -> None:
    """What has been loaded by now is never garbage, and is not walked any more: with torch and numba that is 235
    thousand objects, and to walk them stops every thread for 100 to 500 ms. Called once, by a process's own verb, when
    its modules are there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
