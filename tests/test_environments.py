"""Each extra in an environment of its own, from the wheel: what it is for runs there, and what it lacks is named.

Together they are one installation: the broker of `kafka`, a bundle of `train`, a worker of `worker`, a server of
`server`, asked from `cli`. Nothing of the checkout is on their path. torch and what it needs are links to those of the
environment that runs the tests: the same files, and gigabytes less. `make test-extras` runs this; it needs a package
index.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras

ROOT = Path(__file__).resolve().parents[1]
WITH_TORCH = ("train", "worker", "faust")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
WORLD = "synthetic:3000"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*command: object, code: int = 0, **variables: str) -> tuple[str, str]:
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH" and not n.startswith("FOREBAY_")}
    done = subprocess.run(
        [str(c) for c in command], check=False, capture_output=True, text=True, timeout=600, env=environment | variables
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


class Environment:
    """A venv with one extra. `forebay` runs a verb to its end, `start` one that stays until `stop`."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder, self.settings, self.children = folder, settings, list[subprocess.Popen[str]]()

    def forebay(self, *words: object, code: int = 0) -> tuple[str, str]:
        return _run(self.folder / "bin" / "forebay", *words, code=code, **self.settings)

    def start(self, *words: object, until: str) -> str:
        """Start a verb and return the line that has `until` in it; the rest of what it says goes to a file."""
        environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | self.settings
        log = self.folder / "log.txt"
        with log.open("w") as said:
            command = [str(self.folder / "bin" / "forebay"), *map(str, words)]
            child = subprocess.Popen(
                command, stdout=said, stderr=said, text=True, env=environment | {"PYTHONUNBUFFERED": "1"}
            )
        self.children.append(child)
        for _ in range(1200):
            if found := re.search(f".*{until}.*", log.read_text()):
                return found[0]
            assert child.poll() is None, log.read_text()
            signal.sigtimedwait([], 0.1)
        raise AssertionError(log.read_text())

    def stop(self) -> None:
        while self.children:
            child = self.children.pop()
            child.terminate()
            assert child.wait(60) == 0, (self.folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def torch_links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to torch and what it needs, as they are installed here."""
    folder, todo, seen = tmp_path_factory.mktemp("torch"), ["torch"], set[str]()
    while todo:
        found = distribution(todo.pop())
        seen.add(found.name)
        for top in {
            file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__", "nvidia")
        }:
            link = folder / top
            if not top.endswith(".pth") and not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
        for requirement in found.requires or ():
            name = re.split(r"[<>=!~;\[ ]", requirement)[0]
            if "extra ==" not in requirement and name not in seen:
                try:
                    distribution(name)
                except ModuleNotFoundError:  # for another platform
                    continue
                todo.append(name)
    shared = Path(str(distribution("torch").locate_file("nvidia")))
    if shared.exists():  # one folder of several distributions
        (folder / "nvidia").symlink_to(shared)
    return folder


@pytest.fixture(scope="module")
def environment(
    wheel: Path, torch_links: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Environment]]:
    """`environment("server")`: made when it is first asked for."""
    made: dict[str, Environment] = {}
    data = tmp_path_factory.mktemp("data")
    port = _free_port()
    settings = {
        "FOREBAY_DATA_DIR": str(data), "FOREBAY_BOOTSTRAP": f"127.0.0.1:{_free_port()}", "FOREBAY_PARTITIONS": "2",
        "FOREBAY_PORT": str(port), "FOREBAY_SERVER": f"http://127.0.0.1:{port}",
    }  # fmt: skip

    def get(extra: str) -> Environment:
        if extra not in made:
            folder = tmp_path_factory.mktemp(extra)
            venv.create(folder)
            if extra in WITH_TORCH:
                (packages,) = folder.glob("lib/python*/site-packages")
                (packages / "torch.pth").write_text(f"{torch_links}\n")
            python = folder / "bin" / "python"
            _run(*PIP, "--python", python, "install", "--quiet", "--no-compile", f"{wheel}[{extra}]")
            made[extra] = Environment(folder, settings)
        return made[extra]

    yield get
    for one in reversed(made.values()):
        one.stop()


@pytest.fixture(scope="module")
def broker(environment: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real Kafka by `forebay kafka`; its address is what every environment's settings say."""
    kafka = environment("kafka")
    address = kafka.settings["FOREBAY_BOOTSTRAP"]
    folder = tmp_path_factory.mktemp("kafka-data")
    kafka.start("kafka", "--dir", folder, "--port", address.rpartition(":")[2], until=f"on {address}")
    return address


@pytest.fixture(scope="module")
def bundle(environment: Callable[[str], Environment]) -> Path:
    train = environment("train")
    train.forebay("train", "--from", WORLD, "--epochs", "1")
    (made,) = Path(train.settings["FOREBAY_DATA_DIR"], "bundles").iterdir()
    return made


@pytest.fixture(scope="module")
def worker(environment: Callable[[str], Environment], broker: str, bundle: Path) -> Environment:
    """A generation, and a worker that follows its log."""
    here = environment("worker")
    here.forebay("topics", "create")
    here.forebay("backfill", "--bundle", bundle, "--from", WORLD)
    here.start("work", until="item worker")
    return here


@pytest.mark.parametrize("extra", ["cli", "kafka", "server", "train", "worker", "faust"])
def test_help_and_version_are_there(extra: str, environment: Callable[[str], Environment]) -> None:
    """In each extra that brings the command line."""
    assert environment(extra).forebay("--version")[0].startswith("forebay ")
    assert environment(extra).forebay("--help")[0].startswith("Usage: forebay ")
    assert environment(extra).forebay("config", "--json")[0].startswith("[")


def test_a_publisher_publishes(environment: Callable[[str], Environment], worker: Environment, broker: str) -> None:
    """From `publisher`, which has no command line and says so."""
    here = environment("publisher")
    told = here.forebay("publish", "events.jsonl", code=2)[1]
    assert told.endswith("is not installed. Run: pip install 'forebay[cli,publisher]'\n") and told.count("\n") == 1
    code = (
        "from forebay import Behaviour, EventPublisher\n"
        f"with EventPublisher('{broker}') as events: events.send(Behaviour('u1', 'i1', 'click'))\n"
        "print(events.acknowledged)"
    )
    assert _run(here.folder / "bin" / "python", "-W", "error", "-c", code)[0] == "1\n"


def test_what_kafka_brings_speaks_of_topics(environment: Callable[[str], Environment], broker: str) -> None:
    """`forebay kafka` runs a broker that the same environment asks."""
    kafka = environment("kafka")
    assert "behaviour" in kafka.forebay("topics", "create")[0]
    assert "dead-letters" in kafka.forebay("topics", "list")[0]


def test_a_bundle_is_trained_and_a_spec_is_checked(environment: Callable[[str], Environment], bundle: Path) -> None:
    """From `train`."""
    assert "flops" in environment("train").forebay("spec", "check", ROOT / "segments" / "movielens.toml", "--json")[0]
    assert (bundle / "weights.safetensors").exists()


def test_a_server_serves_what_a_worker_wrote(environment: Callable[[str], Environment], worker: Environment) -> None:
    """`serve` and `doctor` from `server`, asked from `cli`; torch is not among what a server has."""
    server = environment("server")
    assert not list(server.folder.rglob("site-packages/torch"))
    server.start("serve", until="ready at http")
    assert "user u1" in environment("cli").forebay("lookup", "user:u1")[0]
    checks = server.forebay("doctor", "--json", code=1)[0]  # a dead letter of the publisher's, or the disk: it did run
    assert '"lookup server"' in checks


def test_two_apps_of_faust_rebalance_in_a_bare_environment(
    environment: Callable[[str], Environment], broker: str, tmp_path: Path
) -> None:
    """From `faust` alone: with a version of faust each rebalance failed where `opentracing` was not installed."""
    here = environment("faust")
    assert not list(here.folder.rglob("site-packages/opentracing"))
    apart = Environment(
        here.folder, here.settings | {"FOREBAY_TOPIC_PREFIX": "bare.", "FOREBAY_DATA_DIR": str(tmp_path)}
    )
    apart.forebay("topics", "create")
    try:
        apart.start(
            "work", "--transport", "faust", "--only", "intake", "--slot", "0", until="ready: the intake, slot 0"
        )
        log = (here.folder / "log.txt").rename(here.folder / "first.txt")  # the next start has one of its own
        apart.start(
            "work", "--transport", "faust", "--only", "intake", "--slot", "1", until="ready: the intake, slot 1"
        )
        assert "Traceback" not in log.read_text() + (here.folder / "log.txt").read_text()
    finally:
        apart.stop()


@pytest.mark.parametrize(
    ("extra", "words", "wanted"),
    [
        ("worker", ["work", "--transport", "faust"], "faust"),
        ("server", ["train", "--from", WORLD], "train"),
        ("server", ["work"], "worker"),
        ("server", ["bench"], "all"),
        ("kafka", ["spec", "check", str(ROOT / "segments" / "movielens.toml"), "--from", WORLD], "train"),
        ("kafka", ["doctor"], "server"),
        ("train", ["serve"], "server"),
        ("train", ["topics", "list"], "publisher"),
        ("train", ["kafka"], "kafka"),
        ("worker", ["serve"], "server"),
        ("worker", ["train", "--from", WORLD, "--log", "log"], "train"),
        ("cli", ["demo"], "all"),
    ],
)
def test_what_an_extra_lacks_is_one_line(
    extra: str, words: list[str], wanted: str, environment: Callable[[str], Environment]
) -> None:
    """The module and the command that installs it, with exit code 2."""
    out, err = environment(extra).forebay(*words, code=2)
    assert out == "" and re.fullmatch(rf"error: [\w-]+ is not installed. Run: pip install 'forebay\[{wanted}]'\n", err)


def test_every_other_extra_can_be_resolved(wheel: Path, environment: Callable[[str], Environment]) -> None:
    """`gpu`, `s3` and `all` are not installed here (a GPU's libraries; the tests' own environment): what they ask
    for is there to be had."""
    python = environment("cli").folder / "bin" / "python"
    for extra in ("gpu", "s3", "kafka,publisher,server"):
        _run(*PIP, "--python", python, "install", "--quiet", "--dry-run", f"{wheel}[{extra}]")
