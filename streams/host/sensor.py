"""What faust's sensors hear, as a hook of `forebay.telemetry`."""

from __future__ import annotations

import time
from typing import Any

from faust.sensors import Sensor

from forebay.telemetry import emit


class Told(Sensor):  # type: ignore[misc]
    """Rebalances of the app's own group: its streams stand still meanwhile, and the stages do not. Their own are told
    by their members, under the stage's name. What else faust's sensors hear is told once for each event or commit of
    the app's own streams: that is for the app's Monitor."""

    def on_rebalance_end(self, app: Any, state: dict[str, Any]) -> None:
        """Called by faust, with what on_rebalance_start of the base class returned."""
        emit("rebalanced", stage="app", seconds=time.monotonic() - state["time_start"])
