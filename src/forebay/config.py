"""Settings: one frozen dataclass; file < environment < flag, and for each value where it came from."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from forebay.errors import ConfigError
from forebay.secret import NO_SECRET, Secret

FILE = "forebay.toml"
PREFIX = "FOREBAY_"
MAY_BE_0 = ("standby", "users_in_memory")
MAY_BE_LARGE = ("users_in_memory",)


@dataclass(frozen=True)
class Table:
    """One table of a list as it stands in the file; `where` says where that is, for errors."""

    values: Mapping[str, Any]
    where: str


class SourceTable(Table):
    """One `[[source]]`."""

    @property
    def topic(self) -> str:
        """What it names. Raises ConfigError."""
        topic = self.values.get("topic")
        if not isinstance(topic, str) or not topic:
            raise ConfigError("a [[source]] names no topic", where=self.where, do='Write topic = "…"')
        return topic

    def __str__(self) -> str:
        return str(self.values.get("topic", "?"))


class SegmentTable(Table):
    """One `[[segment]]`."""

    def __str__(self) -> str:
        return str(self.values.get("name", "?"))


TABLES: Mapping[str, type[Table]] = {"source": SourceTable, "segment": SegmentTable}


@dataclass(frozen=True)
class Settings:
    """What a command runs with. A name in capitals behind FOREBAY_ is its environment variable."""

    bootstrap: str = "127.0.0.1:9092"  # Kafka, host:port, several by comma
    topic_prefix: str = ""  # in front of every topic and group: keeps installations on one cluster apart
    data_dir: Path = Path("forebay-data")  # bundles/, generations/, and what follows unless it is named
    state_dir: Path | None = None  # a worker's stores; absent: data_dir/state
    vectors_dir: Path | None = None  # a serving node's vectors; absent: data_dir/vectors
    tables_dir: Path | None = None  # rows that serve --processes shares; absent: data_dir/tables
    halves: str = "f16"  # how those rows keep what a fusion makes of an item beforehand; int8: in half of the memory
    broker_within: str = "60s"  # how long work and serve wait at their start for a broker that does not answer
    archive: str = ""  # where archive and import write: a folder, or a URL that fsspec knows; absent: data_dir/archive
    checkpoints: str = ""  # where workers keep copies of their state: a folder, or a URL; absent: data_dir/checkpoints
    checkpoint_every: str = "5m"  # how often of each partition; what came since is folded again after a move
    checkpoints_kept: int = 2  # of each partition
    standby: int = 0  # so many other workers keep the state of each partition warm, in memory and on disk; 0: none
    generation: str = "g1"  # the one that backfill builds, work feeds and serve answers from
    partitions: int = 4  # of new topics
    late_after: str = "24h"  # a behaviour that is older when the log takes it is a dead letter
    future_after: str = "5m"  # so is an event that is further ahead
    state_memory_mb: int = 4096  # for rows of entities, of each side in a worker; past it idle ones leave
    intake_memory_mb: int = 2048  # for the ids of accepted events, 16 bytes each; past it older events are late
    source: tuple[SourceTable, ...] = ()  # topics that others fill, in the file alone: a [[source]] table for each
    segment: tuple[SegmentTable, ...] = ()  # how segments are encoded, in the file alone: a [[segment]] table for each
    catalogue_memory_mb: int = 1024  # for the attributes of items, about 200 bytes each; past it no item is taken more
    pause_above: str = "50%"  # a source more of whose records are no events stands still; off: none does
    pause_records: int = 1000  # so many records are judged together
    pause_window: str = "30s"  # or those of so long, where there are 20
    pause_retry: str = "30s"  # after that its newest records are looked at, then after twice as long each time
    pause_retry_most: str = "10m"  # up to this
    kafka_protocol: str = "PLAINTEXT"  # or SSL, SASL_PLAINTEXT, SASL_SSL
    kafka_ca: Path | None = None  # PEM: who signs the brokers' certificates; absent: the system's own
    kafka_certificate: Path | None = None  # PEM: this client's, where brokers ask for one
    kafka_key: Path | None = None  # PEM: of that certificate
    kafka_key_password_file: Path | None = None  # its first line; or the variable of kafka_key_password
    kafka_key_password: Secret = NO_SECRET  # from the environment only
    kafka_mechanism: str = "SCRAM-SHA-512"  # or SCRAM-SHA-256, PLAIN: of SASL
    kafka_user: str = ""  # of SASL
    kafka_password_file: Path | None = None  # its first line; or the variable of kafka_password
    kafka_password: Secret = NO_SECRET  # from the environment only
    status: str = ""  # host:port at which work answers GET /ready, /health and /metrics; absent: nobody is answered
    host: str = "127.0.0.1"  # what serve listens on; 0.0.0.0 for every interface
    port: int = 8080  # of serve
    users_in_memory: int = 0  # of a serving node, those asked for most; the others are read from vectors_dir; 0: all
    shard: str = "1/1"  # of the users, like 2/8: serve has those of every eighth partition, from the second on
    metrics: str = ""  # host:port at which serve answers GET /ready, /health and /metrics; absent: /metrics at its port
    inspect: str = "on"  # the page at / of serve for people; page: without its what-if, which runs encoders; off: none
    inspect_titles: Path | None = (
        None  # what the page calls items: lines of an id, a tab and a title; absent: their ids
    )
    server_certificate: Path | None = None  # PEM: serve speaks TLS with it; absent: plain HTTP
    server_key: Path | None = None  # PEM, without a password: of that certificate; absent: it is in the same file
    server_tokens: Path | None = None  # hashes of the tokens that serve admits, read again when it changes; absent: all
    index_recall: str = "98%"  # the share of the best items that retrieve finds, once there are thousands of them
    server: str = "http://127.0.0.1:8080"  # what lookup and doctor ask
    server_ca: Path | None = None  # PEM: who signs its certificate; absent: the system's own
    server_token_file: Path | None = None  # its first line is the token for it; or the variable of server_token
    server_token: Secret = NO_SECRET  # from the environment only

    @property
    def bundles(self) -> Path:
        return self.data_dir / "bundles"

    @property
    def archive_url(self) -> str:
        """The archive's folder or URL."""
        return self.archive or str(self.data_dir / "archive")

    @property
    def checkpoints_url(self) -> str:
        """The folder or URL of Checkpoints."""
        return self.checkpoints or str(self.data_dir / "checkpoints")

    @property
    def generation_dir(self) -> Path:
        return self.data_dir / "generations" / self.generation

    @property
    def state(self) -> Path:
        """This generation's partition stores."""
        return (self.state_dir or self.data_dir / "state") / self.generation

    @property
    def intake(self) -> Path:
        """The Intake's stores, which all generations share. No generation can be called so."""
        return (self.state_dir or self.data_dir / "state") / "@intake"

    @property
    def vectors(self) -> Path:
        """This generation's VectorStore."""
        return (self.vectors_dir or self.data_dir / "vectors") / self.generation

    @property
    def tables(self) -> Path:
        """This generation's shared tables."""
        return (self.tables_dir or self.data_dir / "tables") / self.generation


def load(
    flags: Mapping[str, Any], *, file: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Settings, and the origin of each ("default", the file's path, the variable, "flag"). `flags` of None are not
    given.

    Without `file`, FOREBAY_CONFIG or a forebay.toml in the working directory is read. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    named = file or (Path(environment[f"{PREFIX}CONFIG"]) if f"{PREFIX}CONFIG" in environment else None)
    values: dict[str, Any] = {}
    origins = {f.name: "default" for f in fields(Settings)}
    path = named or Path(FILE)
    if named is not None or path.exists():
        for name, value in _read(path).items():
            _set(values, origins, name, value, str(path))
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable != f"{PREFIX}CONFIG":
            _set(values, origins, variable.removeprefix(PREFIX).lower(), text, variable)
    for name, value in flags.items():
        if value is not None:
            _set(values, origins, name, value, "flag")
    return Settings(**values), origins


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file", where=str(path), do="FOREBAY_CONFIG names it: name one that exists"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not a TOML file: {error}", where=str(path), do="Mend the place that it names") from None


def _set(values: dict[str, Any], origins: dict[str, str], name: str, value: Any, origin: str) -> None:
    """Take `value` for `name`. A refusal does not repeat the value: it may be a password in the wrong place."""
    most = 1 << 31 if name in MAY_BE_LARGE else 65_535
    kinds, least = {f.name: str(f.type) for f in fields(Settings)}, int(name not in MAY_BE_0)
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown setting {name!r}", where=origin, do=f"{meant}Known: {', '.join(sorted(kinds))}")
    try:
        if kinds[name] == "int":
            values[name] = int(value)
            if isinstance(value, bool | float) or not least <= values[name] <= most:
                raise ValueError
        elif name in TABLES:
            values[name] = _tables(name, value, origin)
        elif kinds[name] == "Secret":
            if origin != f"{PREFIX}{name.upper()}":
                raise ConfigError(
                    f"{name} is not read from here",
                    where=origin,
                    do=f"Put it into a file that only this user reads, and name that in {name}_file; "
                    f"or set {PREFIX}{name.upper()}",
                )
            values[name] = Secret(str(value))
        elif isinstance(value, str | Path):
            values[name] = Path(value) if "Path" in kinds[name] else str(value)
        else:
            raise ConfigError(f"{name} is not a text", where=origin, do=f'Write it as {name} = "…"')
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} is not a number from {least} to {most}", where=origin, do="Use a whole number"
        ) from None
    origins[name] = origin


def _tables(name: str, value: Any, origin: str) -> tuple[Table, ...]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ConfigError(f"{name} is no list of tables", where=origin, do=f"Write each as [[{name}]] in {FILE}")
    return tuple(TABLES[name](table, f"{origin}, [[{name}]] {place}") for place, table in enumerate(value, start=1))
