"""What a worker can be told beside what it works on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerOptions:
    """`slot` names this worker among its group's: stable over restarts, different for each process.

    A batch encodes for `encode_s` at most, and for `encode_behind_s` where the worker is a second or more behind its
    log; what is left waits for the next one. A batch waits for company `hold_commits` times as long as a commit usually
    takes. Of each owned partition a Checkpoint is made every `checkpoint_every_s`, and the newest `checkpoints_kept`
    are kept. So many workers as `standby` keep the state of a partition warm that they do not own, and look after it
    every `standby_every_s`. A broker may be away for `broker_away_s`; the place of Checkpoints that are needed is tried
    again for as long as it is away. A worker with records to read that commits nothing for `stall_after_s` is ended by
    its supervisor.
    """

    slot: str = "0"
    batch_records: int = 4096  # past 4,096 a batch gains nothing and its latency grows
    encode_s: float = 0.5  # of a tick that moves a million windows; others need milliseconds
    # A full batch of the built-in spec takes .04 s: encoders that are as fast make up for a lag by themselves, and
    # slower ones leave the fold its time.
    encode_behind_s: float = 0.1
    hold_commits: float = 0.0
    poll_s: float = 0.1
    flush_batches: int = 8
    flush_interval_s: float = 1.0
    heartbeat_interval_s: float = 1.0
    session_timeout_ms: int = 6_000  # a worker that is lost for good is missed for so long; one that restarts is not
    transaction_timeout_ms: int = 10_000
    checkpoint_every_s: float = 300.0
    checkpoints_kept: int = 2
    standby: int = 0
    standby_every_s: float = 5.0
    broker_away_s: float = 600.0
    stall_after_s: float = 120.0
