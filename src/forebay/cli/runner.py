"""From sys.argv to an exit code."""

from __future__ import annotations

from forebay.cli.app import app
from forebay.cli.told import logged, told


def run() -> int:
    """Run the command in sys.argv; returns its exit code."""
    logged()
    return told(lambda: app(prog_name="forebay", standalone_mode=False))
