"""The early-interaction ranker: user and candidate meet in the first layer, and everything is computed for each pair.

DIN (Zhou et al., KDD 2018): the user's list pooled by attention to the candidate. DCNv2 (Wang et al., WWW 2021): cross
layers over all features. A perceptron beside them, and the explicit crosses that help most: the raw affinities times
the candidate's own keys. It reads what Forebay's `rank` fusion reads, from the same states: what differs is when user
and item meet.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from forebay.arrays import Floats
from forebay.segments.encoders import build, tensors
from forebay.segments.encoders.contract import mean_and_deviation
from forebay.segments.fusions.contract import Shape
from forebay.segments.spec import FusionSpec
from forebay.segments.state.kept import Kept
from forebay.segments.state.readout import Inputs
from forebay.segments.training.material import Material
from forebay.segments.training.metrics import auc
from forebay.segments.training.network import Network

Progress = Callable[[int, int, Mapping[str, float]], None]  # (epochs done, at most, figures of the last one)


@dataclass(frozen=True)
class EarlyOptions:
    """As `tune` found them on the validation part of MovieLens-100K."""

    embedding: int = 16
    attention: int = 32
    cross_layers: int = 1
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    learning_rate: float = 3e-4
    weight_decay: float = 3.0
    batch_size: int = 512
    epochs: int = 15
    patience_epochs: int = 3


class Early(nn.Module):
    """`forward(inputs)` gives logits [n] of n pairs; `inputs` has the segments of the spec's `rank` fusion."""

    def __init__(self, material: Material, options: EarlyOptions) -> None:
        super().__init__()
        spec = material.spec
        read = spec.fusions["rank"].segments
        network = Network(spec, material.vocabulary)
        readers = {s.title: network.readers[s.title] for s in read}
        self._raw = [s for s in read if s.encoder.kind == "affinity"]
        self._dense = [s.title for s in read if s not in self._raw and readers[s.title].dense_width]
        self._list = next((s.title for s in read if readers[s.title].list_size), None)
        self._own = next((s.title for s in read if any(f.kind == "id" for f in s.features)), None)
        self._items = [s.title for s in read if s.side == "item" and s.title in self._dense]
        self.raw = nn.ModuleList(build(readers[s.title], 0, s) for s in self._raw)
        means, scales = [], []
        for title in self._dense:
            mean, deviation = mean_and_deviation(material.inputs(title)[0])
            means.append(mean)
            scales.append(1 / deviation.clamp_min(1e-3))
        self.register_buffer("mean", torch.cat(means))
        self.register_buffer("scale", torch.cat(scales))
        self.embedding = nn.Embedding(len(material.vocabulary) + 1, options.embedding)
        nn.init.normal_(self.embedding.weight, std=0.05)
        item_dense = sum(readers[t].dense_width for t in self._items)
        entry = options.embedding + (readers[self._list].sequence_width if self._list else 0)
        self.entry = nn.Linear(entry, options.attention)
        self.candidate = nn.Linear(options.embedding + item_dense, options.attention)
        self.attend = nn.Sequential(
            nn.Linear(3 * options.attention, options.attention), nn.ReLU(), nn.Linear(options.attention, 1)
        )
        user_raw = tuple(s for s in self._raw if s.side == "user")
        item_raw = tuple(s for s in self._raw if s.side == "item")
        crosses = 0
        if user_raw and item_raw:
            fusion = FusionSpec("rank", "weighted_sum", user_raw, item_raw)
            only = copy.copy(spec)
            object.__setattr__(only, "fusions", {**spec.fusions, "rank": fusion})
            shape = Shape.of(only, "rank")
            self._cut = [(shape.user[p], shape.item[q]) for p, q in shape.pairs]
            self._at = {s.title: sum(o.dim for o in spec.side(s.side)[: spec.side(s.side).index(s)]) for s in self._raw}
            crosses = len(self._cut)
        else:
            self._cut = []
        width = len(self.mean) + options.embedding + 2 * options.attention + crosses
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(options.cross_layers))
        layers: list[nn.Module] = []
        before = width
        for after in options.hidden:
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(options.dropout)]
            before = after
        self.deep = nn.Sequential(*layers)
        self.out = nn.Linear(before + width, 1)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, inputs: Mapping[str, Inputs]) -> Tensor:
        read = {title: tensors(i) for title, i in inputs.items()}
        # Clamped: a cross layer squares what a rare count far from its mean would be.
        dense = ((torch.cat([read[t][0] for t in self._dense], 1) - self.mean) * self.scale).clamp(-4, 4)
        count = len(dense)
        place = read[self._own][4] if self._own else torch.zeros(count, dtype=torch.long)
        own = self.dropout(self.embedding(place))
        first = 0
        item_parts = []
        for title in self._dense:
            width = read[title][0].shape[1]
            if title in self._items:
                item_parts.append(dense[:, first : first + width])
            first += width
        candidate = torch.relu(self.candidate(torch.cat([own, *item_parts], 1)))
        pooled = self._pooled(candidate, read[self._list]) if self._list else torch.zeros_like(candidate)
        parts = [dense, own, self.dropout(pooled), candidate]
        if self._cut:
            raw = {s.title: encoder(*read[s.title]) for s, encoder in zip(self._raw, self.raw, strict=True)}
            user = next(s.title for s in self._raw if s.side == "user")
            item = next(s.title for s in self._raw if s.side == "item")
            for u, v in self._cut:
                a = raw[user][:, u.start - self._at[user] : u.stop - self._at[user]]
                b = raw[item][:, v.start - self._at[item] : v.stop - self._at[item]]
                parts.append((a * b).sum(1, keepdim=True))
        x0 = torch.cat(parts, 1)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        logits: Tensor = self.out(torch.cat([self.dropout(x), self.deep(x0)], 1)).squeeze(1)
        return logits

    def _pooled(self, candidate: Tensor, read: tuple[Tensor, ...]) -> Tensor:
        _, sequence, items, length, _ = read
        entries = torch.relu(self.entry(torch.cat([self.embedding(items), sequence], 2)))
        beside = candidate.unsqueeze(1).expand_as(entries)
        there = torch.arange(items.shape[1]) < length.unsqueeze(1)
        # Unnormalised, as in DIN: how much of the list speaks to the candidate matters too.
        weights = torch.sigmoid(self.attend(torch.cat([entries, beside, entries * beside], 2)).squeeze(2)) * there
        pooled: Tensor = torch.bmm(weights.unsqueeze(1), entries).squeeze(1) / length.clamp_min(1).sqrt().unsqueeze(1)
        return pooled


def fit(material: Material, options: EarlyOptions, seed: int, progress: Progress | None = None) -> tuple[Early, float]:
    """The ranker at the epoch with the best validation AUC, and that AUC. Deterministic by `seed`."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)  # as the stages of training, and for the same reason
    torch.manual_seed(seed)
    model = Early(material, options)
    segments = material.spec.fusions["rank"].segments
    target = torch.from_numpy(material.train.labels.astype(np.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    random = np.random.default_rng(seed)
    best, kept = (-1.0, 0), copy.deepcopy(model.state_dict())
    for epoch in range(options.epochs):
        model.train()
        order = random.permutation(len(target))
        for start in range(0, len(order), options.batch_size):
            index = order[start : start + options.batch_size]
            logits = model(material.train.take(segments, index))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, target[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        found = auc(scores(model, material.validation.inputs), material.validation.labels)
        if found > best[0]:
            best, kept = (found, epoch), copy.deepcopy(model.state_dict())
        over = epoch - best[1] >= options.patience_epochs
        if progress is not None:
            done = options.epochs if over else epoch + 1
            progress(done, options.epochs, {"validation_auc": found, "epoch": float(epoch + 1)})
        if over:
            break
    model.load_state_dict(kept)
    return model.eval(), best[0]


@torch.inference_mode()
def scores(model: Early, inputs: Mapping[str, Inputs | Kept], batch: int = 2048) -> Floats:
    """Logits float32 [n] of n pairs."""
    model.eval()
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, batch):
        index = np.arange(start, min(start + batch, count))
        parts.append(model({t: i.take(index) for t, i in inputs.items()}).numpy())
    return np.concatenate(parts)


def tune(material: Material, tries: Sequence[EarlyOptions], seed: int = 0) -> list[tuple[float, EarlyOptions]]:
    """(validation AUC, options) of each, best first. The search is no part of an evaluation: its outcome is
    EarlyOptions."""
    found = [(fit(material, options, seed)[1], options) for options in tries]
    return sorted(found, key=lambda pair: -pair[0])
