"""What is built is what works: the wheel in a bare environment, the light client, the names that are promised."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import forebay

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("streams", "segments", "store", "retrieval")
HEAVY = ("torch", "faiss", "rocksdict", "confluent_kafka", "kafka", "numba", "starlette", "xxhash", "typer")


def _run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(c) for c in command], check=False, capture_output=True, text=True, timeout=300, **options
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
    """A newcomer's wheel has all four rooms under `forebay`, the built-in spec and the type marker, and no bare names."""
    names = zipfile.ZipFile(built[1]).namelist()
    for room in ROOMS:
        modules = {f"forebay/{p.relative_to(ROOT)}" for p in (ROOT / room).rglob("*.py")}
        assert modules == {n for n in names if n.startswith(f"forebay/{room}/") and n.endswith(".py")}
        assert not any(n.startswith(f"{room}/") for n in names)
    assert {"forebay/py.typed", "forebay/segments/movielens.toml"} <= set(names)
    with tarfile.open(built[0]) as sdist:
        assert sum(n.endswith("/store/table.py") for n in sdist.getnames()) >= 1


def test_the_client_runs_where_nothing_else_is_installed(bare: Path, tmp_path: Path) -> None:
    """`from forebay import Client` works with numpy, msgspec and urllib3 alone, and loads none of the server."""
    code = (
        "import sys; from forebay import Client, Behaviour, ForebayError\n"
        "try: Client('http://127.0.0.1:9', timeout_s=1.0).rank('u', ['i'])\n"
        "except ForebayError as error: print(type(error).__name__)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert _run(bare / "python", "-c", code, cwd=tmp_path).split("\n")[:2] == ["ServerUnavailable", "[]"]


def test_a_missing_extra_is_named_with_its_command(bare: Path, tmp_path: Path) -> None:
    """A publisher without kafka-python, and the command line without typer, say what to install."""
    code = (
        "from forebay import EventPublisher, ForebayError\n"
        "try: EventPublisher('127.0.0.1:9')\n"
        "except ForebayError as error: print(error)"
    )
    assert "pip install 'forebay[publisher]'" in _run(bare / "python", "-c", code, cwd=tmp_path)
    done = subprocess.run([bare / "forebay", "doctor"], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'forebay[cli]'" in done.stderr


def test_importing_forebay_imports_nothing() -> None:
    """`import forebay` is free: public names load when they are used."""
    code = "import sys, forebay; print([m for m in sys.modules if m.startswith('forebay.')])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert _run(sys.executable, "-c", code, env=environment).strip() == "[]"


def test_the_promised_names_are_there() -> None:
    """`__all__` is sorted, complete, and each name can be had."""
    assert forebay.__all__ == sorted(forebay.__all__, key=lambda n: (n.startswith("_"), n))
    assert all(getattr(forebay, name) is not None for name in forebay.__all__)


def test_the_version_is_told_once() -> None:
    """pyproject.toml and the package agree on the version."""
    assert f'version = "{forebay.__version__}"' in (ROOT / "pyproject.toml").read_text()
