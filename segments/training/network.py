"""The torch twin of a whole bundle: every encoder, and the fusions that training fits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from forebay.segments.bundle import Bundle
from forebay.segments.encoders import SegmentEncoder, build, encode, tensors
from forebay.segments.fusions.contract import Shape
from forebay.segments.spec import SIDES, USES, SegmentSpec, Side, Spec, Use
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import Inputs, SegmentReader, Vocabulary
from forebay.segments.training.twins import Twin, twin

SideInputs = Mapping[str, Inputs]  # by the segment's title


class Network(nn.Module):
    """`vectors` encodes one side, flat; `fusions[use]` scores. Names of weights are those of a bundle's tensors."""

    def __init__(self, spec: Spec, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.spec, self.vocabulary = spec, vocabulary
        self.layouts: dict[Side, Layout] = {side: Layout.of(spec, side) for side in SIDES}
        self.readers = {s.title: SegmentReader(spec, s, self.layouts[s.side], vocabulary) for s in spec.segments}
        # A module's name cannot have a dot in it; a segment's name cannot have a colon.
        self.encoders = nn.ModuleDict(
            {_key(s): build(self.readers[s.title], len(vocabulary), s) for s in spec.segments}
        )
        self.fusions = nn.ModuleDict({use: twin(spec.fusions[use], Shape.of(spec, use)) for use in USES})
        self._empty = {s.title: self._empty_inputs(s) for s in spec.segments}

    @classmethod
    def of(cls, bundle: Bundle) -> Network:
        """The network whose weights a bundle holds."""
        network = cls(bundle.spec, bundle.vocabulary)
        for segment in bundle.spec.segments:
            if not any(n.startswith("bounds.") for n in bundle.segment_tensors(segment)):
                network.encoder(segment).forget_bounds()
        with torch.no_grad():
            for name, weight in network.named_tensors().items():
                weight.copy_(torch.from_numpy(np.array(bundle.tensors[name])))
        return network

    def encoder(self, segment: SegmentSpec) -> SegmentEncoder:
        found = self.encoders[_key(segment)]
        assert isinstance(found, SegmentEncoder)
        return found

    def renew(self, segment: SegmentSpec, encoder: SegmentEncoder) -> None:
        """Put `encoder` in the place of the segment's."""
        self.encoders[_key(segment)] = encoder

    def fusion(self, use: Use) -> Twin:
        found = self.fusions[use]
        assert isinstance(found, Twin)
        return found

    def named_tensors(self) -> dict[str, Tensor]:
        """Every weight and buffer by the name that it has in a bundle; the network's own memory."""
        found = {
            f"{s.title}.{name}": tensor
            for s in self.spec.segments
            for name, tensor in self.encoder(s).state_dict().items()
        }
        for use in USES:
            found |= {f"fusion.{use}.{name}": tensor for name, tensor in self.fusion(use).state_dict().items()}
        return found

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Those of them that can be trained."""
        found = {f"{s.title}.{n}": p for s in self.spec.segments for n, p in self.encoder(s).named_parameters()}
        return found | {f"fusion.{use}.{n}": p for use in USES for n, p in self.fusion(use).named_parameters()}

    def vectors(
        self, side: Side, inputs: SideInputs, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """float32 [n, dims of the side], columns of segments that `inputs` does not have zero: no fusion asks for them.

        With `dropout` an example's segment is replaced by its default vector with that probability, as a lookup does
        for one that is missing or expired: the fusion learns what the absence of each means.
        """
        count = len(next(iter(inputs.values())))
        parts = []
        for segment in self.spec.side(side):
            if segment.title not in inputs:
                parts.append(torch.zeros(count, segment.dim))
                continue
            encoder = self.encoder(segment)
            vectors = encoder(*tensors(inputs[segment.title]))
            if dropout:
                gone = torch.rand(count, 1, generator=generator) < dropout
                vectors = torch.where(gone, encoder(*tensors(self._empty[segment.title])), vectors)
            parts.append(vectors)
        return torch.cat(parts, 1)

    def bundle(self, record: Mapping[str, object]) -> Bundle:
        """A bundle of copies of the weights, with the default vectors that they give."""
        found: dict[str, npt.NDArray[np.generic]] = {
            name: tensor.detach().numpy().copy() for name, tensor in self.named_tensors().items()
        }
        found["vocabulary.item"] = self.vocabulary.hashes
        for side in SIDES:
            defaults = [encode(self.encoder(s), self._empty[s.title])[0] for s in self.spec.side(side)]
            found[f"default.{side}"] = np.concatenate(defaults)
        return Bundle(self.spec, found, record)

    def _empty_inputs(self, segment: SegmentSpec) -> Inputs:
        rows = np.zeros((1, self.layouts[segment.side].width), np.int64)
        return self.readers[segment.title].read(rows, np.zeros(1, np.int64))


def _key(segment: SegmentSpec) -> str:
    return f"{segment.side}:{segment.name}"
