"""One stage of a training run: some weights, one objective, epochs until its figure stops rising."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forebay.segments.training.checkpoint import Checkpoint
from forebay.segments.training.network import Network
from forebay.segments.training.objectives import Objective

# (stage, epochs done in it, epochs at most, figures of the last one). After the last epoch of a stage done is at most.
Progress = Callable[[str, int, int, Mapping[str, float]], None]


# A sum over a batch is split by threads: their number is fixed, or a seed would give one bundle here and another there.
THREADS = 2


@dataclass(frozen=True)
class Stage:
    """`trained` are names of a bundle's tensors; all others stay as they are, bit for bit."""

    name: str
    objective: Objective
    trained: tuple[str, ...]
    epochs: int
    patience_epochs: int
    learning_rate: float
    weight_decay: float

    def run(
        self, network: Network, seed: int, progress: Progress | None = None, checkpoint: Checkpoint | None = None
    ) -> dict[str, float]:
        """Fit, and leave the network at the epoch with the best figure; returns that epoch's figures.

        Randomness of an epoch is a function of (seed, stage, epoch) alone, so that a run which goes on from a
        checkpoint ends as one that was never interrupted.
        """
        torch.set_num_threads(THREADS)
        tensors = network.named_tensors()
        weights = self._weights(network)
        optimizer = torch.optim.AdamW(weights.values(), lr=self.learning_rate, weight_decay=self.weight_decay)
        best: dict[str, float] = {self.objective.figure: -np.inf, "epoch": 0.0}
        kept = {name: tensors[name].clone() for name in self.trained}
        first = 0
        if checkpoint is not None and (found := checkpoint.load(self.name)) is not None:
            first, best = found.epoch, dict(found.best)
            _restore(found.tensors, tensors, kept, weights, optimizer)
        for epoch in range(first, self.epochs):
            if best["epoch"] and epoch - best["epoch"] >= self.patience_epochs:
                break
            self._epoch(network, optimizer, [*_seed(seed, self.name), epoch])
            network.eval()
            figures = {**self.objective.figures(network), "epoch": float(epoch + 1)}
            if figures[self.objective.figure] > best[self.objective.figure]:
                best = figures
                for name in self.trained:
                    kept[name].copy_(tensors[name])
            over = epoch + 1 == self.epochs or epoch + 1 - best["epoch"] >= self.patience_epochs
            if checkpoint is not None:
                checkpoint.save(self.name, epoch + 1, best, _state(tensors, kept, weights, optimizer))
            if progress is not None:
                progress(self.name, self.epochs if over else epoch + 1, self.epochs, figures)
        with torch.no_grad():
            for name in self.trained:
                tensors[name].copy_(kept[name])
        return best

    def _weights(self, network: Network) -> dict[str, torch.nn.Parameter]:
        """The trained ones among the parameters, by name; gradients of all others are switched off."""
        parameters = network.named_weights()
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        found = {name: parameters[name] for name in self.trained}
        for parameter in found.values():
            parameter.requires_grad_(True)
        return found

    def _epoch(self, network: Network, optimizer: torch.optim.Optimizer, entropy: list[int]) -> None:
        random = np.random.default_rng(entropy)
        torch.manual_seed(int(random.integers(1 << 62)))  # dropout layers draw from torch's own generator
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        network.train()
        order = self.objective.epoch(random)
        for start in range(0, len(order), self.objective.batch_size):
            loss = self.objective.loss(network, order[start : start + self.objective.batch_size], generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def _seed(seed: int, name: str) -> list[int]:
    return [seed, zlib.crc32(name.encode())]


def _state(
    tensors: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    weights: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Tensor]:
    found = {f"now/{n}": tensors[n] for n in tensors} | {f"best/{n}": t for n, t in kept.items()}
    for name, weight in weights.items():
        for key, value in optimizer.state[weight].items():
            found[f"optimizer/{key}/{name}"] = value
    return found


def _restore(
    saved: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    weights: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[f"now/{name}"])
        for name, tensor in kept.items():
            tensor.copy_(saved[f"best/{name}"])
    for name, weight in weights.items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"optimizer/{key}/{name}" in saved:
                optimizer.state[weight][key] = saved[f"optimizer/{key}/{name}"].clone()
