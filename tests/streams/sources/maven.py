"""What tests take from Maven, into the user's repository, as Kafka is taken: without `mvn`."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jgo.config import GlobalSettings
from jgo.maven import MavenContext, PythonResolver


@contextmanager
def _context() -> Iterator[tuple[Any, Any]]:
    settings, resolver = GlobalSettings.load(), PythonResolver()
    context = MavenContext(resolver, settings.repo_cache, remote_repos=settings.repositories or None, timeout=60)
    Path(context.repo_cache).mkdir(parents=True, exist_ok=True)
    with (Path(context.repo_cache) / ".forebay-tests.lock").open("w") as lock:  # one process fetches at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield context, resolver


def artifact(coordinate: str) -> Path:
    """One file."""
    with _context() as (context, _):
        return Path(context.create_dependency(coordinate).artifact.resolve())


def class_path(coordinate: str) -> list[Path]:
    """A jar and all that it runs with."""
    with _context() as (context, resolver):
        given, others = resolver.resolve([context.create_dependency(coordinate)])
        found = [one.artifact for one in (*given, *others) if one.scope in ("compile", "runtime", None)]
        return [Path(one.resolve()) for one in found]
