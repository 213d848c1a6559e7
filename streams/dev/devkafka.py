"""Apache Kafka for development and tests: one KRaft node on the loopback address, from Python packages alone.

It is the real broker (`kafkajars` says where it comes from), so that tests meet real transactions, compaction and
fencing; it is not a set-up for production (one node, no replication, no TLS).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from forebay.errors import BrokerError, UsageError
from forebay.streams.dev.child import end, spawn
from forebay.streams.dev.kafkajars import VERSION, jars, java

JVM = (
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",  # says READY_LINE
)
READY_LINE = b"Kafka Server started"  # written once requests are answered, which is later than the port being open
MIN_FREE_BYTES = 256 << 20


class DevKafka:
    """One Kafka broker whose data lives in `directory`; starting again on the same directory goes on from there.

    `port` None takes a free one at the first start and keeps it for this object; the controller's port is always a free
    one. `partitions` is the default of topics created without a count (nothing is created by itself). `proxied` is a
    second port, for clients behind a proxy, and the proxy's own port, which they are told of. The process ends with
    `stop()`, with the `with` block, or with the process that started it, even when that is killed.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        port: int | None = None,
        partitions: int = 4,
        proxied: tuple[int, int] | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        if port is not None and not 0 < port < 65536:
            raise UsageError(f"port {port} cannot be used", do="Use 1 to 65535, or none for a free one")
        self.directory = Path(directory).absolute()
        self.partitions = partitions
        self._proxied = proxied
        self._fixed_port = port is not None
        self._port = port
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients, `127.0.0.1:PORT`. Raises UsageError before the first start of a free port."""
        if self._port is None:
            raise UsageError("this broker has no port yet", where=str(self.directory), do="Call start() first")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the running broker; None when it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log_file(self) -> Path:
        """What Kafka says (warnings and errors), written anew at each start. Also the lock of the directory."""
        return self.directory / "kafka.log"

    def start(self, timeout_s: float = 60) -> Self:
        """Start the broker and return when it answers. The first start on a machine fetches 45 MB; that is not counted.

        Raises BrokerError (port or directory in use, disk full, Java's own words) and MissingExtra. Whatever is raised,
        no process is left. Call it from a thread that lives as long as the broker shall (see child.spawn).
        """
        if self.pid is not None:
            return self
        if self._fixed_port and self._port is not None and _port_taken(self._port):
            raise BrokerError(
                f"port {self._port} is in use",
                where=self.bootstrap,
                do="Stop what listens there, or take another port: --port, and --kafka-port of the demo",
            )
        command = [java(), *JVM, "-cp", os.pathsep.join(map(str, jars(self._say)))]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.directory).free
            if free < MIN_FREE_BYTES:
                raise self._full(f"{free >> 20} MB are free where Kafka would keep its data")
            with self.log_file.open("ab") as log:
                self._lock(log)
                self._launch(command, log, time.monotonic() + timeout_s)
        except OSError as error:
            raise BrokerError(f"Kafka's files cannot be written: {error}", where=str(self.directory)) from error
        return self

    def stop(self, timeout_s: float = 20) -> None:
        """End the broker: SIGTERM, then SIGKILL after `timeout_s`. Its data stays. Only this object's own process."""
        process, self._process = self._process, None
        if process is not None:
            end(process, timeout_s)

    def kill(self) -> None:
        """SIGKILL, for tests of what a broker's crash leaves behind; `start()` brings it back with its log."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _lock(self, log: IO[bytes]) -> None:
        # flock belongs to the open file, which Java inherits as its output: it is held until the last of both has gone,
        # so that a broker that outlived this object (another thread's, say) still keeps a second one away.
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerError(
                "another broker runs on this directory",
                where=str(self.directory),
                do="Stop it, or use another directory",
            ) from None
        log.truncate(0)

    def _launch(self, java: list[str], log: IO[bytes], deadline: float) -> None:
        formatted = (self.directory / "data" / "meta.properties").exists()
        for last_try in (False, False, True):
            if not self._fixed_port and (self._port is None or _port_taken(self._port)):
                self._port = _free_port()
            settings = self._write_settings()
            if not formatted:
                storage = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", settings]
                self._spawn([*java, *storage], log)
                self._wait(deadline, None)
                formatted = True
            self._spawn([*java, "kafka.Kafka", settings], log)
            try:
                self._wait(deadline, READY_LINE)
                return
            except BrokerError as error:
                # Someone took the port between our look and Java's bind.
                if last_try or "Address already in use" not in str(error):
                    raise
                log.truncate(0)

    def _spawn(self, command: list[str], log: IO[bytes]) -> None:
        self._process = spawn(command, log, self.directory)

    def _wait(self, deadline: float, ready: bytes | None) -> None:
        """Return when the log has `ready`, or (None) when the process ended well; else end it and raise its last
        words."""
        process = self._process
        assert process is not None
        try:
            while ready is None or ready not in self.log_file.read_bytes():
                if process.poll() is not None:
                    if ready is None and process.returncode == 0:
                        return
                    raise self._failed(f"Kafka {VERSION} ended with {process.returncode}")
                if time.monotonic() > deadline:
                    raise self._failed(f"Kafka {VERSION} did not start in time")
                time.sleep(0.02)
        except BaseException:
            self.kill()
            raise

    def _failed(self, what: str) -> BrokerError:
        lines = self.log_file.read_text("utf-8", "replace").splitlines()
        text = "\n".join(lines)
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return self._full("the disk is full where Kafka keeps its data")
        said = [line for line in lines if not line.startswith(("\tat ", "SLF4J"))][-12:]
        return BrokerError(
            f"{what}. Its last words:\n  " + "\n  ".join(said or ["(none)"]) + "\n", where=str(self.log_file)
        )

    def _full(self, what: str) -> BrokerError:
        return BrokerError(what, where=str(self.directory), do="Make room, or name a directory on another disk")

    def _cluster_id(self) -> str:
        # Kept beside the data before it is formatted: a start that was cut off formats with the same id again.
        path = self.directory / "cluster.id"
        if not path.exists():
            path.write_text(urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A"))
        return path.read_text().strip()

    def _write_settings(self) -> str:
        controller = f"127.0.0.1:{_free_port()}"
        listens, told = [f"BROKER://{self.bootstrap}"], [f"BROKER://{self.bootstrap}"]
        if self._proxied:
            listens.append(f"PROXIED://127.0.0.1:{self._proxied[0]}")
            told.append(f"PROXIED://127.0.0.1:{self._proxied[1]}")
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",  # static, so that the port may differ at the next start
            "listeners": ",".join([*listens, f"CONTROLLER://{controller}"]),
            "advertised.listeners": ",".join(told),
            "listener.security.protocol.map": "BROKER:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.directory / "data",
            "num.partitions": self.partitions,
            "auto.create.topics.enable": "false",
            "log.message.timestamp.type": "LogAppendTime",
            "broker.session.timeout.ms": 3000,  # after kill -9 a start waits for the dead one's session: 9 s by default
            "broker.heartbeat.interval.ms": 500,
            "group.initial.rebalance.delay.ms": 0,  # 3 s by default: each test's first consumer would wait for it
            "group.min.session.timeout.ms": 1000,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "log.cleaner.dedupe.buffer.size": 16 << 20,  # 128 MB by default: a third of the heap
            "log.cleaner.backoff.ms": 1000,
            "log.segment.bytes": 256 << 20,
            "log.index.size.max.bytes": 1 << 20,  # 10 MB by default, twice for each partition
            "num.network.threads": 2,
            "num.io.threads": 4,
        }
        path = self.directory / "server.properties"
        # In a properties file a backslash escapes.
        path.write_text("".join(f"{key}={value}\n".replace("\\", "\\\\") for key, value in settings.items()))
        return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT is no listener
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
