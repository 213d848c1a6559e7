"""What one owned partition holds, for people and their monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Census:
    """`stored` is the offset that the partition's store accounts for. `held` counts what is in memory, by what it is
    (entities, identities); `pending` the entities whose vector waits to be encoded, by segment; `memory` bytes, by what
    they are of."""

    stored: int
    held: Mapping[str, int] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
