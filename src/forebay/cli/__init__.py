"""The `forebay` command. Verbs load what they need when they run, so that `forebay --help` is quick."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the exit code is 0 done, 1 failed, 2 usage, 3 partial, 130 interrupted."""
    try:
        import rich
        import typer
    except ImportError as error:
        print(
            f"error: {error.name} is not installed\n       Run: pip install 'forebay[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    del rich, typer
    from forebay.cli.app import run

    sys.exit(run())
