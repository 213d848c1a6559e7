"""The development broker: it starts, survives, says why not, and never outlives who started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forebay.errors import BrokerError, UsageError
from forebay.streams.dev import devkafka
from forebay.streams.dev.devkafka import DevKafka
from forebay.streams.topics import Topics, describe, ensure

pytestmark = pytest.mark.broker


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _gone(pid: int, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _alive(pid)


def test_a_stopped_broker_starts_again_with_its_topics_and_its_cluster_id(tmp_path: Path) -> None:
    """A restart on the same directory formats nothing: a topic keeps its id."""
    names = Topics()
    with DevKafka(tmp_path) as broker:
        ensure(broker.bootstrap, names, generation=None, partitions=2)
        before = describe(broker.bootstrap, [names.behaviour])
    cluster = (tmp_path / "cluster.id").read_text()
    with DevKafka(tmp_path) as broker:
        assert describe(broker.bootstrap, [names.behaviour]) == before
    assert (tmp_path / "cluster.id").read_text() == cluster
    assert f"cluster.id={cluster}" in (tmp_path / "data" / "meta.properties").read_text()


def test_stopping_ends_the_process_and_its_port(tmp_path: Path) -> None:
    """After stop() there is no process, and the port can be bound."""
    broker = DevKafka(tmp_path).start()
    pid, port = broker.pid, int(broker.bootstrap.rpartition(":")[2])
    assert pid is not None and _alive(pid)
    broker.stop()
    assert broker.pid is None and not _alive(pid)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_a_port_in_use_is_said_before_java_starts(tmp_path: Path) -> None:
    """The message names the port and what to do, and nothing is written."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} is in use .*Stop what listens there, or take another port"):
            DevKafka(tmp_path / "kafka", port=port).start()
    assert not (tmp_path / "kafka").exists()


def test_a_second_broker_on_the_same_directory_is_refused(kafka: DevKafka) -> None:
    """The first one goes on, its log untouched."""
    said = kafka.log_file.read_bytes()
    with pytest.raises(BrokerError, match="another broker runs on this directory"):
        DevKafka(kafka.directory).start()
    assert kafka.pid is not None and kafka.log_file.read_bytes().startswith(said)


def test_a_failed_start_shows_what_kafka_said_and_leaves_no_process(tmp_path: Path) -> None:
    """Data of another cluster: Kafka's own reason is in the error."""
    with DevKafka(tmp_path):
        pass
    meta = tmp_path / "data" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    broker = DevKafka(tmp_path)
    with pytest.raises(BrokerError, match=r"(?s)Its last words:.*7.*kafka\.log"):
        broker.start()
    assert broker.pid is None


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    """Kafka's words for a full disk become ours."""
    broker = DevKafka(tmp_path)
    broker.log_file.write_text("ERROR java.io.IOException: No space left on device\n")
    assert str(broker._failed("Kafka ended with 1")) == (
        f"the disk is full where Kafka keeps its data ({tmp_path}). Make room, or name a directory on another disk"
    )


def test_a_broker_that_does_not_start_in_time_is_ended(tmp_path: Path) -> None:
    """No Java is left behind by a start that was given up."""
    broker = DevKafka(tmp_path)
    with pytest.raises(BrokerError, match="did not start in time"):
        broker.start(timeout_s=0.1)
    assert broker.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal is Linux's")
def test_a_broker_dies_with_its_parent_even_by_sigkill(tmp_path: Path) -> None:
    """kill -9 of the process that started it leaves no Java."""
    program = (
        "import sys, time; from forebay.streams.dev.devkafka import DevKafka; "
        "print(DevKafka(sys.argv[1]).start().pid, flush=True); time.sleep(600)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.send_signal(signal.SIGKILL)
    assert _gone(pid)


def test_a_port_lost_between_the_look_and_the_bind_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free ports can be taken by anyone before Java binds them: another one is tried."""
    pick = devkafka._free_port
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        stolen = thief.getsockname()[1]
        picks = iter([stolen])
        monkeypatch.setattr(devkafka, "_free_port", lambda: next(picks, None) or pick())
        with DevKafka(tmp_path) as broker:
            assert broker.pid is not None and broker.bootstrap != f"127.0.0.1:{stolen}"


def test_a_port_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """Port 0 means nothing here: leave it out for a free one."""
    with pytest.raises(UsageError, match="port 0"):
        DevKafka(tmp_path, port=0)
