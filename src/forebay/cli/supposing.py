"""The process beside a server that folds and encodes what did not happen: a server itself runs no encoder.

    python -m forebay.cli.supposing '{…}'      the settings, as JSON; a server starts it when somebody asks first

It writes a line when all is loaded. Then it reads a question for each line of standard input and writes an answer for
each to standard output. It ends when its
input does, and when nobody has asked for ten minutes. Processor time is left to others where they want it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import IO

import msgspec

from forebay.cli.questions import Question, Reply
from forebay.config import load

IDLE_S = 600.0


def main() -> int:
    """Answer until the input ends."""
    os.nice(10)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what was fetched is removed
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    from forebay.cli.cluster import cluster
    from forebay.cli.told import logged
    from forebay.errors import ForebayError
    from forebay.served import served_model
    from forebay.store.checkpoints import Checkpoints
    from forebay.streams.suppose.suppose import Suppose
    from forebay.streams.topics import Topics

    logged()
    settings = load(json.loads(sys.argv[1]))[0]
    bundle, generation = served_model(settings)
    suppose = Suppose(
        bundle, generation.name, bootstrap=cluster(settings), topics=Topics(settings.topic_prefix),
        checkpoints=Checkpoints(settings.checkpoints_url),
    )  # fmt: skip
    answers.write(b"loaded\n")
    answers.flush()
    try:
        for line in _lines(sys.stdin.buffer):
            asked = msgspec.json.decode(line, type=Question)
            try:
                moved = suppose.move(asked.user, asked.item, asked.action, asked.value)
            except ForebayError as error:
                reply = Reply(error=error.what, do=error.do)
            else:
                reply = Reply(
                    moved.before.tobytes(), moved.after.tobytes(), moved.checkpoint_ms, moved.events, moved.read_ms,
                    moved.remarks,
                )  # fmt: skip
            answers.write(msgspec.json.encode(reply) + b"\n")
            answers.flush()
    finally:
        suppose.close()
    return 0


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    """Each line that comes within IDLE_S of the one before. One line is asked for at a time, so that none is in a
    buffer."""
    while select.select([source], [], [], IDLE_S)[0]:
        line = source.readline()
        if not line:
            return
        yield line


if __name__ == "__main__":
    sys.exit(main())
