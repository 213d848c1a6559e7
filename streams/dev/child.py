"""Processes that we start and that must not outlive us, not even when we are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Runs in the child and then becomes the command (same process id): the kernel sends it SIGTERM when its parent dies,
# even by SIGKILL. The signal comes when the *thread* that started the child ends, not its process. A program of its own
# instead of preexec_fn, which can hang a parent that has other threads.
DIE_WITH_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this one has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(
    command: Sequence[str], log: IO[bytes], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` (its first word an absolute path), output to `log`. Call it from a thread that lives as long as
    it shall.

    It gets a session of its own: Ctrl-C in the terminal reaches the parent alone, which ends its children in its own
    order.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], timeout_s: float = 20) -> int:
    """SIGTERM, then SIGKILL after `timeout_s`; returns the exit code. Only this one process."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
