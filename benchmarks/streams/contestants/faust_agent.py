"""count, mean and the last 30 items of each user, as a user of faust writes it: an agent, a Table, and a topic of
feature records.

    ENV/bin/python faust_agent.py --bootstrap HOST:PORT --source TOPIC --to TOPIC --group NAME --folder FOLDER

Runs until SIGTERM. peers.py starts it, and knows by the group's offsets how far it has come. It needs faust-streaming
alone. One record for each event; a new value is set in the Table, since faust writes a changelog of what is set.
"""

from __future__ import annotations

import argparse
from typing import Any

import faust
import mode.loop

words = argparse.ArgumentParser(description="An agent of faust with a Table")
words.add_argument("--bootstrap", required=True)
words.add_argument("--source", required=True, help="topic of events as JSON, keyed by user")
words.add_argument("--to", required=True, help="topic of feature records")
words.add_argument("--group", required=True)
words.add_argument("--folder", required=True)
words.add_argument("--partitions", type=int, default=4)
words.add_argument("--store", choices=("memory", "rocksdb"), default="memory", help="of the Table")
given = words.parse_args()

mode.loop.use("uvloop")
# Everything else is left at faust's own settings.
app = faust.App(
    given.group,
    broker=f"kafka://{given.bootstrap}",
    store="rocksdb://?driver=rocksdict" if given.store == "rocksdb" else "memory://",
    datadir=given.folder,
    topic_partitions=given.partitions,
    web_enabled=False,
    broker_session_timeout=10.0,
    broker_heartbeat_interval=2.0,
    producer_linger=0.005,
    stream_buffer_maxsize=16384,
    broker_max_poll_records=1000,
)
events = app.topic(given.source, key_type=str, value_serializer="json")
features = app.topic(given.to, key_type=str, value_serializer="json")
users = app.Table("features", partitions=given.partitions)


@app.agent(events)
async def count(stream: Any) -> None:
    """Fold each event into its user's row, and tell the row."""
    async for user, event in stream.items():
        row = users.get(user) or {"count": 0, "sum": 0.0, "last": []}
        row = {
            "count": row["count"] + 1,
            "sum": row["sum"] + event["value"],
            "last": [*row["last"][-29:], event["item"]],
        }
        users[user] = row
        await features.send(
            key=user, value={"count": row["count"], "mean": row["sum"] / row["count"], "last": row["last"]}
        )


if __name__ == "__main__":
    app.Worker(loglevel="WARN").execute_from_commandline()
