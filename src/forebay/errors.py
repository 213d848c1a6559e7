"""Every error that Forebay raises on purpose. Each says what is wrong, where, and what to do about it.

ForebayError
├── UsageError                 the caller's words are off (exit code 2)
│   ├── ConfigError            a setting is unknown or has a bad value
│   ├── SpecError              segments.toml cannot be a model
│   └── MissingExtra           an optional dependency is not installed
├── EventError                 one event is not acceptable (`reason` is the dead letter's reason code)
├── BlockError                 a record of the clean log is no Block
├── ArchiveError               an archive cannot be read, or lacks a part
├── PublishError               events that no broker acknowledged (`events` holds them)
├── BrokerError                Kafka cannot do what is asked
│   ├── BrokerUnavailable      nobody answers at the bootstrap address
│   ├── TopicMissing           a topic that must exist does not
│   ├── TopicMismatch          it exists with other settings, another id or another partition count
│   ├── LogGap                 records that the state needs have left the log
│   ├── TransactionLost        whether a transaction was committed is not known
│   ├── RecordRefused          the broker refuses a record for its content
│   ├── Fenced                 another worker owns the partitions now
│   └── Stalled                records wait, and the worker makes no progress
├── StoreError                 files on disk
│   ├── StoreLocked            another process has this directory open
│   ├── StoreCorrupt           bytes are not what was written
│   ├── TableFull              there is no room for more rows that requests read
│   ├── CheckpointError        a checkpoint cannot be written, or not be read
│   └── StoreLeads             the store is ahead of the consumer group
├── BundleError                a bundle is damaged or does not fit
├── GenerationError
│   ├── GenerationMismatch     vectors of two generations would have met
│   └── GenerationUnavailable  the generation asked for is not served here
├── HashCollision              two ids share a 64-bit hash: the second is refused
└── LookupFailed               the request-time client got no answer
    ├── ServerUnavailable      no connection, or the server is not ready
    │   └── Overloaded         more is asked of it than it can answer in time
    ├── DeadlineExceeded       no answer inside the time given
    ├── Unauthorized           the server wants a token, and this one is none of its
    └── BadRequest             the server refused the request
"""

from __future__ import annotations

from collections.abc import Sequence


class ForebayError(Exception):
    """What went wrong (`what`), where (`where`: a path, topic, segment, address) and the remedy (`do`)."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        text = f"{what} ({where})" if where else what
        super().__init__(f"{text}. {do}" if do else text)


class UsageError(ForebayError):
    """The caller's words are off: nothing was done."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, or its value cannot be used."""


class SpecError(UsageError):
    """A segments.toml that cannot be a model; `where` names the file and the table in it."""


class MissingExtra(UsageError):
    """An optional dependency is needed; `do` is the command that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed", do=f"Run: pip install 'forebay[{extra}]'")
        self.extra = extra


class HookMissing(UsageError):
    """A library that carries the stages is of a version whose inside is not known: nothing was joined."""


class EventError(ForebayError):
    """One event is not acceptable. `reason` is the code that its dead letter carries."""

    def __init__(self, reason: str, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__(what, where=where, do=do)
        self.reason = reason


class BlockError(ForebayError):
    """A record of the clean log is no Block: a stranger wrote it. It is told of and stepped over."""


class ArchiveError(ForebayError):
    """An archive cannot be read, or lacks what it should have."""


class BlockTooNew(BlockError):
    """A Block of a version that is not known here.

    Operator action: upgrade the workers before the Intake. Nothing is stepped over, and nothing is lost.
    """


class PublishError(ForebayError):
    """Some events were not acknowledged. They are in `events`, in sending order: send them again or keep them."""

    def __init__(self, what: str, events: Sequence[object], *, where: str = "", do: str = "") -> None:
        super().__init__(what, where=where, do=do)
        self.events = list(events)


class BrokerError(ForebayError):
    """Kafka cannot do what is asked."""


class BrokerUnavailable(BrokerError):
    """Nobody answers at the bootstrap address."""


class TopicMissing(BrokerError):
    """A topic that must exist does not."""


class TopicMismatch(BrokerError):
    """A topic exists with other settings, another id or another partition count than the state was built from."""


class LogGap(BrokerError):
    """Records between the state's offset and the log's first one are gone: the state cannot be brought up to date.

    Operator action: `forebay backfill --generation NEW` from a history that reaches to now; the old generation must not
    go on from a hole. A serving node's copy is deleted instead: the vectors topics keep every row. Where it is the
    Intake that was down for longer than the sources keep their records, those are lost to the stream: the message has
    the command that goes on after the hole. Where it is the archive that lacks them, another one begins behind the
    hole.
    """


class Fenced(BrokerError):
    """Another worker owns the partitions now; this one's transaction was refused and left nothing behind."""


class TransactionLost(BrokerError):
    """The broker did not answer while a transaction was under way: whether it was committed is not known.

    The producer is of no use any more. A new one of the same transactional id settles the question, and the group's
    committed offsets then say how it ended.
    """


class RecordRefused(BrokerError):
    """The broker refuses a record for its content, and the transaction with it: nothing of the batch is in the log."""


class Stalled(BrokerError):
    """Records wait and nothing has been committed for too long, or a worker's loop stands still.

    Operator action: none at first, the supervisor starts the process again. If it comes back, read the worker's log.
    """


class StoreError(ForebayError):
    """Files on disk cannot be used.

    Operator action on a full disk: make room (opening a store takes up to 32 MiB beside it) and start again; nothing
    acknowledged is lost.
    """


class StoreLocked(StoreError):
    """Another process has this directory open. One writer per directory: stop the other one first."""


class StoreMissing(StoreError):
    """There is no store where one must be, nor a checkpoint of it.

    Operator action: name the place that has the checkpoints (`checkpoints` in forebay.toml), bring the directory from
    the partition's last owner, or `forebay backfill --generation NEW`.
    """


class StoreCorrupt(StoreError):
    """Bytes on disk are not what was written. Operator action, by what the path is:

    - a serving node's vectors: delete the directory; it is filled from the vectors topics.
    - a worker's state, and the Intake's (in @intake): one that does not open is moved aside, and the newest checkpoint
      takes its place. One that opens and is damaged further in: delete the directory, and start the worker again.
      Without a checkpoint, put an earlier copy of the directory in its place; without a copy of a worker's state,
      `forebay backfill --generation NEW` from a history that reaches to now. Without one of the Intake's, delete it:
      what the source still keeps is read again, and duplicates of what it does not keep can count twice.
    - a generation's manifest: bring the file from a copy of the folder, or `forebay backfill --generation NEW`.
    """


class IndexDamaged(StoreError):
    """The file of an item index is not what was written. No operator action: all items are scanned meanwhile, which is
    slower, and the replica makes another file of the rows.
    """


class TableFull(StoreError):
    """There is no room for more rows in the tables that requests read: the device is full, or a limit is reached.

    Operator action: make room on the device that the message names, and start the replica again. The rows that are
    there go on being served and updated; new entities are not served until then.
    """


class CheckpointError(StoreError):
    """A checkpoint cannot be written, or cannot be read, or is not what was written.

    Operator action: see that this machine reaches the place (`checkpoints` in forebay.toml) and may write there. While
    a worker cannot, it goes on with the state that it has, and says so; what is damaged goes with `forebay checkpoints
    prune`, and an older checkpoint serves meanwhile.
    """


class StoreLeads(StoreError):
    """The store's offset is ahead of the consumer group's: the group was reset, or the store belongs to another group.

    Operator action: name the right --state; for a group that was reset, stop its workers and set its offset to the
    store's (the message has the command). Never delete the store: what the group was set back over is in it already.
    """


class BundleError(ForebayError):
    """A bundle's files do not match its content hash, or it does not fit what it is used with."""


class GenerationError(ForebayError):
    """Something about generations."""


class GenerationMismatch(GenerationError):
    """Vectors of two generations would have met in one score."""


class GenerationUnavailable(GenerationError):
    """The generation asked for is not served here. Never answered from another one."""


class HashCollision(ForebayError):
    """Two ids share a 64-bit hash. The second is refused at write; the first goes on being served."""


class LookupFailed(ForebayError):
    """The request-time client got no answer."""


class ServerUnavailable(LookupFailed):
    """No connection could be made, or the server says that it is not ready."""


class Overloaded(ServerUnavailable):
    """More is asked of the server than it can answer in time: the request was refused before any work.

    The client does not ask again by itself, since that would add to the load. Operator action: start another server
    beside it.
    """


class DeadlineExceeded(LookupFailed):
    """No answer came inside the time given."""


class BadRequest(LookupFailed):
    """The server refused the request; its own words are in the message."""


class WrongShard(LookupFailed):
    """The user is another node's: `shard` is the number of the one that has it, and 0 where that is not known.

    Operator action: name the servers to the client in the order of their shards, and each of them once.
    """

    def __init__(self, what: str, *, where: str = "", do: str = "", shard: int = 0) -> None:
        super().__init__(what, where=where, do=do)
        self.shard = shard


class Unauthorized(LookupFailed):
    """The server wants a token, and the client has none or one that it does not know.

    Operator action: name the token's file in `server_token_file`, or give it to `Client(token=…)`; its hash is a line
    of the server's `server_tokens`.
    """
