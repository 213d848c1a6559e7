"""Calls of a client library that may not come back: a stopped broker outlasts their time-outs."""

from __future__ import annotations

import threading
from collections.abc import Callable

CLOSE_S = 2.0  # to leave a group: whoever does not manage it is missed after a session's time


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Run `call` on a thread of its own and wait `seconds` for it; returns whether it has ended. Else it is left
    behind."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
