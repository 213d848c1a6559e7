"""The `forebay` command. Verbs load what they need when they run, so that `forebay --help` is quick."""

from __future__ import annotations

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
    from forebay.cli.runner import run

    sys.exit(run())
