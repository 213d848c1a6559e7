"""Where a training run stands, on disk: an interrupted one goes on from its last epoch and ends with the same bundle.

    run.json                what is trained: spec, options, data; another run in the same folder is refused
    {stage}.json            epoch, the best figures so far, the SHA-256 of the tensors
    {stage}.safetensors     weights now, weights at the best epoch, the optimiser's moments

The JSON file is replaced last and names the hash of the tensors: a crash between the two leaves the epoch before, or,
where the tensors are newer than the JSON says, a stage that starts again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import Tensor

from forebay import files
from forebay.errors import UsageError


@dataclass(frozen=True)
class Found:
    """One stage as it was after `epoch` epochs."""

    epoch: int
    best: Mapping[str, float]
    tensors: Mapping[str, Tensor]


class Checkpoint:
    """A folder that belongs to one run. `identity` is all that the run's outcome depends on."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Raises UsageError when the folder has another run's checkpoint in it."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(identity))
        path = folder / "run.json"
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            files.write(path, json.dumps(wanted, indent=1).encode())
            return
        except ValueError:
            stated = None
        if stated != wanted:
            differs = [k for k in wanted if not isinstance(stated, dict) or stated.get(k) != wanted[k]]
            raise UsageError(
                f"a checkpoint of another run: it differs in {', '.join(differs) or 'its form'}",
                where=str(path),
                do="Name another folder with --checkpoint, or remove this one to start again",
            )

    def save(self, stage: str, epoch: int, best: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Replace what is stored of `stage`."""
        data = format_tensors({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()})
        files.write(self._folder / f"{stage}.safetensors", data)
        meta = {"epoch": epoch, "best": dict(best), "sha256": hashlib.sha256(data).hexdigest()}
        files.write(self._folder / f"{stage}.json", json.dumps(meta).encode())

    def load(self, stage: str) -> Found | None:
        """What is stored of `stage`; None where nothing whole is."""
        try:
            meta = json.loads((self._folder / f"{stage}.json").read_text(encoding="utf-8"))
            data = (self._folder / f"{stage}.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != meta["sha256"]:
                return None
            return Found(int(meta["epoch"]), meta["best"], parse_tensors(data))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
