"""count, mean and the last 30 items of each user, as a user of quixstreams writes it: a StreamingDataFrame with State
(RocksDB and its changelog), and a topic of feature records.

    ENV/bin/python quix_state.py --bootstrap HOST:PORT --source TOPIC --to TOPIC --group NAME --folder FOLDER

Runs until SIGTERM. peers.py starts it, and knows by the group's offsets how far it has come. It needs quixstreams
alone. One record for each event.
"""

from __future__ import annotations

import argparse
from typing import Any

from quixstreams import Application, State


def main() -> None:
    words = argparse.ArgumentParser(description="A StreamingDataFrame of quixstreams with State")
    words.add_argument("--bootstrap", required=True)
    words.add_argument("--source", required=True, help="topic of events as JSON, keyed by user")
    words.add_argument("--to", required=True, help="topic of feature records")
    words.add_argument("--group", required=True)
    words.add_argument("--folder", required=True)
    words.add_argument("--exactly-once", action="store_true")
    given = words.parse_args()
    app = Application(
        given.bootstrap,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        state_dir=given.folder,
        processing_guarantee="exactly-once" if given.exactly_once else "at-least-once",
        consumer_extra_config={"fetch.queue.backoff.ms": 5},  # the default of 1,000 drains a backlog slower
        loglevel="WARNING",
    )
    events = app.topic(given.source, key_deserializer="str", value_deserializer="json")
    features = app.topic(given.to, key_serializer="str", value_serializer="json")
    frame = app.dataframe(events)
    frame = frame.apply(_folded, stateful=True)
    frame.to_topic(features)
    app.run()


def _folded(event: dict[str, Any], state: State) -> dict[str, Any]:
    """Fold an event into its user's row, and tell the row."""
    row = state.get("row") or {"count": 0, "sum": 0.0, "last": []}
    row = {"count": row["count"] + 1, "sum": row["sum"] + event["value"], "last": [*row["last"][-29:], event["item"]]}
    state.set("row", row)
    return {"count": row["count"], "mean": row["sum"] / row["count"], "last": row["last"]}


if __name__ == "__main__":
    main()
