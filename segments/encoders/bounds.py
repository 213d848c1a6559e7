"""Where a read-out leaves what training saw, it is bounded: an encoder has no weights for what no example has shown.

Within [least, greatest] of the training part a column is passed on as it is, to the bit. Beyond, the distance d to the
nearer end counts as d / (1 + d / margin), the margin being half of the range: it starts with the slope 1 and never
reaches the margin. So a count that outgrows the training part by a little, as those of popular items do at once, still
says that it is more (a plain clamp cost .04 recall@50 on MovieLens), and one of a billion says no more than half a
range. A column that never varied in training has weights that nothing has trained: it keeps its value, whatever is read
later.

Sums, products and quotients of single numbers only, no logarithm: those are the same at every place of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MARGIN = 0.5  # of the range that training saw, beyond its ends
LEAST_MARGIN = (
    1e-6  # of a column that never varied: scales go up to 1,000 (contract.py), so that it moves by a thousandth
)


class Bounds(nn.Module):
    """`forward` bounds float32 [..., columns]. Until it is fitted nothing is out of bounds."""

    low: Tensor
    high: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        most = torch.finfo(torch.float32).max  # not infinity: tensors of a bundle are finite
        self.register_buffer("low", torch.full((columns,), -most))
        self.register_buffer("high", torch.full((columns,), most))

    def fit(self, parts: Iterable[Tensor], through: float | None = None) -> None:
        """Take the ends of `parts`, float32 [n, columns] each; no row at all leaves it as it is. `through` is a value
        that is always within."""
        ends = [(part.amin(0), part.amax(0)) for part in parts if len(part)]
        if not ends:
            return
        if through is not None:
            ends.append((torch.full_like(self.low, through), torch.full_like(self.high, through)))
        self.low.copy_(torch.stack([low for low, _ in ends]).amin(0))
        self.high.copy_(torch.stack([high for _, high in ends]).amax(0))

    def forward(self, values: Tensor) -> Tensor:
        within = torch.minimum(torch.maximum(values, self.low), self.high)
        beyond = values - within
        if not beyond.any():
            return values
        margin = (MARGIN * (self.high - self.low)).clamp_min(LEAST_MARGIN)
        return torch.where(beyond == 0, values, within + beyond / (1 + beyond.abs() / margin))
