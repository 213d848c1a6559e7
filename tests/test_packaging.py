"""What is built is what works: the wheel in a bare environment, the light client, the names that are promised."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import forebay

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("streams", "segments", "store", "retrieval")
HEAVY = (
    "torch",
    "faiss",
    "rocksdict",
    "confluent_kafka",
    "kafka",
    "numba",
    "numpy",
    "urllib3",
    "uvicorn",
    "xxhash",
    "typer",
)


ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # what a checkout on it would lend


def _run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(c) for c in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        **({"env": ALONE} | options),
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from that sdist, as a release would be."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the wheel and its own few dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    _run(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", built[1])
    return folder / "bin"


def test_wheel_and_sdist_hold_every_room_once(built: tuple[Path, Path]) -> None:
    """A newcomer's wheel has all four rooms under `forebay`, the built-in spec and the type marker, and no bare
    names."""
    names = zipfile.ZipFile(built[1]).namelist()
    for room in ROOMS:
        modules = {f"forebay/{p.relative_to(ROOT)}" for p in (ROOT / room).rglob("*.py")}
        assert modules == {n for n in names if n.startswith(f"forebay/{room}/") and n.endswith(".py")}
        assert not any(n.startswith(f"{room}/") for n in names)
    assert {"forebay/py.typed", "forebay/segments/movielens.toml"} <= set(names)
    with tarfile.open(built[0]) as sdist:
        assert sum(n.endswith("/store/table.py") for n in sdist.getnames()) >= 1


def test_the_client_runs_where_nothing_else_is_installed(bare: Path, tmp_path: Path) -> None:
    """`from forebay import Client` works with msgspec alone, as does AsyncClient, and loads none of the server."""
    code = (
        "import asyncio, sys; from forebay import AsyncClient, Client, Behaviour, ForebayError\n"
        "try: Client('http://127.0.0.1:9', timeout_s=1.0).rank('u', ['i'])\n"
        "except ForebayError as error: print(type(error).__name__)\n"
        "try: asyncio.run(AsyncClient('http://127.0.0.1:9', timeout_s=1.0).rank('u', ['i']))\n"
        "except ForebayError as error: print(type(error).__name__)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert _run(bare / "python", "-c", code, cwd=tmp_path).split() == ["ServerUnavailable"] * 2 + ["[]"]


def test_a_missing_extra_is_named_with_its_command(bare: Path, tmp_path: Path) -> None:
    """A publisher without kafka-python, and the command line without typer, say what to install."""
    code = (
        "from forebay import EventPublisher, ForebayError\n"
        "try: EventPublisher('127.0.0.1:9')\n"
        "except ForebayError as error: print(error)"
    )
    assert "pip install 'forebay[publisher]'" in _run(bare / "python", "-c", code, cwd=tmp_path)
    for words, extra in (["--help"], "cli"), (["doctor"], "server"), (["topics", "list"], "cli,publisher"):
        code, out, err = _ask(bare / "forebay", *words)
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"error: (rich|typer) is not installed. Run: pip install 'forebay\[{extra}]'\n", err)


OLDEST = re.search(r'"typer>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module", params=["oldest", "newest"])
def terminal(
    request: pytest.FixtureRequest, built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The command in an environment with the extra `cli` alone, on the oldest typer that pyproject.toml allows, or the
    newest."""
    assert OLDEST is not None
    folder = tmp_path_factory.mktemp(f"cli-{request.param}")
    venv.create(folder)
    pin = [f"typer=={OLDEST[1]}"] if request.param == "oldest" else []
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--no-compile", f"{built[1]}[cli]", *pin)
    return folder / "bin" / "forebay"


VERBS = [
    [], ["demo"], ["kafka"], ["topics"], ["topics", "create"], ["topics", "list"], ["publish"], ["evaluate"], ["train"],
    ["backfill"], ["work"], ["serve"], ["lookup"], ["doctor"], ["bench"], ["spec"], ["spec", "check"], ["config"],
    ["deadletters"], ["deadletters", "list"], ["deadletters", "redrive"], ["source"], ["source", "resume"],
]  # fmt: skip


def _ask(command: Path, *words: str, **variables: str) -> tuple[int, str, str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "LANG": "C.UTF-8", **variables}
    done = subprocess.run(
        [command, *words], check=False, capture_output=True, text=True, timeout=60, env=environment, cwd="/"
    )
    return done.returncode, done.stdout, done.stderr


def test_the_extra_cli_is_enough_for_every_word_of_help(terminal: Path) -> None:
    """`-h` and `--help` of each verb, the version, and completion, with nothing else installed."""
    for words in VERBS:
        short, long = _ask(terminal, *words, "-h"), _ask(terminal, *words, "--help")
        assert short == long and short[0] == 0 and short[2] == "", (words, short)
        assert short[1].strip().startswith(" ".join(["Usage: forebay", *words])), (words, short)
    assert _ask(terminal, "--version") == (0, f"forebay {forebay.__version__}\n", "")
    assert "--install-completion" in _ask(terminal, "--help")[1]
    words = {"_FOREBAY_COMPLETE": "complete_bash", "COMP_WORDS": "forebay topics cr", "COMP_CWORD": "2"}
    assert _ask(terminal, **words) == (0, "create\n", "")


@pytest.mark.parametrize(
    ("words", "said", "see"),
    [
        (["serv"], "'serv'. Did you mean 'serve'?", "forebay --help"),
        (["topics", "lst"], "'lst'. Did you mean 'list'?", "forebay topics --help"),
        (["config", "--jsn"], "--jsn (Possible options: --json)", "forebay config --help"),
        (["lookup"], "Missing argument", "forebay lookup --help"),
        (["train"], "Missing option '--from'", "forebay train --help"),
        (["lookup", "user:1", "user:2"], "unexpected extra argument", "forebay lookup --help"),
        (["kafka", "--port", "nine"], "Invalid value for '--port'", "forebay kafka --help"),
        (["train", "--from"], "'--from' requires an argument", "--help"),
    ],
)
def test_a_misspelt_word_is_one_line(terminal: Path, words: list[str], said: str, see: str) -> None:
    """What is wrong and whose help has the right word, on one line of standard error, with exit code 2."""
    code, out, err = _ask(terminal, *words)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err) and said in err and err.endswith(f"{see}\n"), err


def test_no_verb_is_help_and_a_usage_error(terminal: Path) -> None:
    """`forebay`, and a noun without its verb, print their help on standard error."""
    for words in [], ["topics"], ["spec"], ["deadletters"], ["source"]:
        code, out, err = _ask(terminal, *words)
        assert (code, out) == (2, "") and err == _ask(terminal, *words, "--help")[1]


def test_a_verb_without_its_extra_says_what_to_install(terminal: Path, tmp_path: Path) -> None:
    """Each verb that needs more names its own extra, on one line."""
    events = tmp_path / "events.jsonl"
    events.write_text("")
    for words, extra in (
        (["demo"], "all"), (["bench"], "all"), (["serve"], "server"), (["doctor"], "server"), (["work"], "worker"),
        (["backfill", "--bundle", "b", "--from", "f"], "worker"), (["train", "--from", "f"], "train"),
        (["evaluate"], "train"), (["kafka", "--dir", str(tmp_path)], "kafka"),
        (["topics", "list"], "publisher"), (["publish", str(events)], "publisher"),
    ):  # fmt: skip
        code, out, err = _ask(terminal, *words)
        assert (code, out) == (2, ""), (words, err)
        assert re.fullmatch(rf"error: [\w-]+ is not installed. Run: pip install 'forebay\[{extra}]'\n", err), err


def test_a_spec_is_checked_with_the_command_line_alone(terminal: Path) -> None:
    """All but the FLOPs, which need torch to be counted."""
    code, out, err = _ask(terminal, "spec", "check", str(ROOT / "segments" / "movielens.toml"), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [s["segment"] for s in found["segments"]][:2] == ["user.profile", "user.recent"]
    assert "flops" not in found["segments"][0] and found["state_bytes"]["user"] > 0


def test_the_page_of_the_package_shows_no_broken_link(built: tuple[Path, Path]) -> None:
    """Of the description in the wheel each link and picture is absolute, or within the page; nothing else of the README
    is missing."""
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload(decode=True).decode()
    targets = [
        str(part.attrGet("href") or part.attrGet("src"))
        for block in MarkdownIt("commonmark").parse(page)
        for part in block.children or []
        if part.type in ("link_open", "image")
    ]
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []
    said = (ROOT / "README.md").read_text()
    words = re.findall(r"\w+", re.sub(r"(!\[[^]]*\])\([^)]*\)", r"\1", said))  # a picture leaves its caption
    assert set(words) <= set(re.findall(r"\w+", page))
    with tarfile.open(built[0]) as sdist:
        held = {n.partition("/")[2] for n in sdist.getnames()}
    for path in re.findall(r"\]\((?!https?://|#)([^)]+)\)", said):
        assert path in held, path


def test_importing_forebay_imports_nothing() -> None:
    """`import forebay` is free: public names load when they are used."""
    code = "import sys, forebay; print([m for m in sys.modules if m.startswith('forebay.')])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert _run(sys.executable, "-c", code, env=environment).strip() == "[]"


def test_the_promised_names_are_there() -> None:
    """`__all__` is sorted, classes first, complete, and each name can be had."""
    assert forebay.__all__ == sorted(forebay.__all__, key=lambda n: (not n[0].isupper(), n))
    assert all(getattr(forebay, name) is not None for name in forebay.__all__)


def test_the_version_is_told_once() -> None:
    """pyproject.toml and the package agree on the version."""
    assert f'version = "{forebay.__version__}"' in (ROOT / "pyproject.toml").read_text()
