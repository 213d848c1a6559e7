"""What a stage minimises, and the figure that it stops by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from forebay.arrays import Bools, Ints
from forebay.errors import BundleError
from forebay.segments.spec import FusionSpec
from forebay.segments.training.material import Material, Part
from forebay.segments.training.metrics import auc, logloss, recall
from forebay.segments.training.network import Network
from forebay.segments.training.options import Sampling, TrainingOptions


class Objective(Protocol):
    """`figure` names what `figures` has in it that is to be made greater."""

    figure: str
    batch_size: int

    def epoch(self, random: np.random.Generator) -> Ints:
        """The impressions of an epoch, places in its part, in a random order."""
        ...

    def loss(self, network: Network, index: Ints, generator: torch.Generator) -> Tensor: ...

    def figures(self, network: Network) -> Mapping[str, float]:
        """Of the validation part; the network is in its evaluation mode."""
        ...


def sampling_shift(labels: Bools, sampling: Sampling) -> float:
    """By how much the log odds of a positive are greater among what `sampling` draws of `labels` bool [n] than they are
    in it."""
    positives = int(labels.sum())
    return math.log((len(labels) - positives) / positives) if sampling != "none" else 0.0


class Ranking:
    """The label of an impression, by binary cross-entropy; with a teacher, towards what it makes of the label (Hinton
    et al., 2015).

    Where sampling evens the labels out, a fusion that is trained learns the evened odds, and is moved back by `shift`
    when its stages are over (King & Zeng, 2001). A `frozen` one was moved back before: there the loss reads its logits
    moved forth.
    """

    figure = "validation_auc"

    def __init__(
        self, material: Material, options: TrainingOptions, fusion: FusionSpec, *, frozen: bool = False
    ) -> None:
        self._train, self._validation = material.train, material.validation
        self._options, self._spec = options, fusion
        self.batch_size = options.batch_size
        labels = torch.from_numpy(self._train.labels.astype(np.float32))
        self._weights = torch.where(labels > 0, options.positive_weight, 1.0)
        self._labels = labels
        self.shift = sampling_shift(self._train.labels, options.sampling)
        self._in_loss, self._in_figures = (self.shift, 0.0) if frozen else (0.0, -self.shift)
        if material.teacher is not None and options.distill:
            # A teacher saw the labels as they were: what it says is moved as they are.
            teacher = torch.from_numpy(material.teacher)
            if self.shift:
                teacher = torch.sigmoid(torch.logit(teacher, eps=1e-6) + self.shift)
            self._labels = torch.lerp(labels, teacher, options.distill)

    def epoch(self, random: np.random.Generator) -> Ints:
        positive, negative = np.flatnonzero(self._train.labels), np.flatnonzero(~self._train.labels)
        rare, common = sorted((positive, negative), key=len)
        match self._options.sampling:
            case "none":
                return random.permutation(len(self._train))
            case "over":
                again = random.choice(rare, len(common) - len(rare), replace=True)
                return random.permutation(np.concatenate([rare, again, common]))
            case "under":
                return random.permutation(np.concatenate([rare, random.choice(common, len(rare), replace=False)]))

    def loss(self, network: Network, index: Ints, generator: torch.Generator) -> Tensor:
        logits = self._logits(network, self._train, index, self._options.segment_dropout, generator)
        weights = self._weights[index]
        if self._in_loss:
            logits = logits + self._in_loss
        each = nn.functional.binary_cross_entropy_with_logits(logits, self._labels[index], reduction="none")
        return (each * weights).sum() / weights.sum()

    @torch.inference_mode()
    def figures(self, network: Network) -> Mapping[str, float]:
        part, size = self._validation, 4096
        scores = np.concatenate(
            [
                self._logits(network, part, np.arange(at, min(at + size, len(part)))).numpy()
                for at in range(0, len(part), size)
            ]
        ) + np.float32(self._in_figures)
        return {"validation_auc": auc(scores, part.labels), "validation_logloss": logloss(scores, part.labels)}

    def _logits(
        self, network: Network, part: Part, index: Ints, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        u = network.vectors("user", part.take(self._spec.user, index), dropout, generator)
        v = network.vectors("item", part.take(self._spec.item, index), dropout, generator)
        logits: Tensor = network.fusion("rank")(u, v)
        return logits


class Retrieval:
    """Which item of the catalogue is liked next, by a softmax over the batch's own items with their popularity taken
    out.

    Popular items are negatives more often than their share of the catalogue; subtracting the log of that share (logQ;
    Yi et al., RecSys 2019) makes the loss that of a softmax over the whole catalogue.
    """

    figure = "validation_recall@50"

    def __init__(self, material: Material, options: TrainingOptions, fusion: FusionSpec) -> None:
        self._fresh, self._asked, self._spec = material.fresh, material.asked, fusion
        self._positive = np.flatnonzero(self._fresh.labels)
        self.batch_size = min(options.retrieve.batch_size, len(self._positive))
        share = material.item_log_share if options.retrieve.logq else np.zeros_like(material.item_log_share)
        self._log_share = torch.from_numpy(share)
        self._items = torch.from_numpy(self._fresh.items)

    def epoch(self, random: np.random.Generator) -> Ints:
        # Whole batches only: the loss of a short one is of another size, since fewer items compete in it.
        whole = len(self._positive) // self.batch_size * self.batch_size
        return random.permutation(self._positive)[:whole]

    def loss(self, network: Network, index: Ints, generator: torch.Generator) -> Tensor:
        u = network.vectors("user", self._fresh.take(self._spec.user, index))
        v = network.vectors("item", self._fresh.take(self._spec.item, index))
        items = self._items[index]
        logits = _fold(network)(u) @ v.T - self._log_share[items]
        # The same item twice in a batch is no negative of itself.
        twins = (items[None] == items[:, None]) & ~torch.eye(len(index), dtype=torch.bool)
        return nn.functional.cross_entropy(logits.masked_fill(twins, -1e9), torch.arange(len(index)))

    @torch.inference_mode()
    def figures(self, network: Network) -> Mapping[str, float]:
        choices = self._asked.choices
        queries = _fold(network)(network.vectors("user", self._asked.users)).numpy()
        scores = np.empty((len(choices), choices.items), dtype=np.float32)
        for day, catalogue in enumerate(self._asked.catalogues):
            rows = choices.day == day
            scores[rows] = queries[rows] @ network.vectors("item", catalogue).numpy().T
        return {"validation_recall@50": recall(choices.ranks(scores), 50)}


def _fold(network: Network) -> Callable[[Tensor], Tensor]:
    fusion = network.fusion("retrieve")
    query = getattr(fusion, "query", None)
    if query is None:
        raise BundleError(
            f"the twin of {fusion.spec.kind} has no query()",
            where="[fusion] retrieve",
            do="Give it one: the user's half float32 [n, item_dim] of an inner product",
        )
    return query
