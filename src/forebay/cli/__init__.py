"""The `forebay` command. Verbs load what they need when they run, so that `forebay --help` is quick."""

from __future__ import annotations

import os
import sys

from forebay.cli.extras import missing, verb_of


def main() -> None:
    """Run the command line; the exit code is 0 done, 1 failed, 2 usage, 3 partial, 130 interrupted."""
    try:
        import rich
        import typer
    except ModuleNotFoundError as error:
        told = missing(error.name, verb_of(sys.argv[1:]))
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
    del rich, typer
    # Before torch loads its threads: where a core has other work, two that spin at the end of each layer waited ten
    # times as long for one another as a batch takes (165 to 1,100 ms instead of 36, on two cores). Asleep they give the
    # same bits.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from forebay.cli.runner import run

    sys.exit(run())
