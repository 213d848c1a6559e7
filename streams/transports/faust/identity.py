"""Who a member is in its group, for the commits of a producer that is of another library."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_NO_INSTANCE = b"\x01"


@dataclass(frozen=True)
class Identity:
    """A `life` ends when the group gives the member up."""

    life: int = 0
    generation: int = 0
    member: str = "nobody"  # generation -1 of "" would be a commit that nobody checks

    def metadata(self, group: str) -> bytes:
        """What librdkafka calls a consumer group's metadata: the broker refuses the offsets of a transaction when they
        are not those of the group (rd_kafka_consumer_group_metadata_write, version 2; hooks.py holds it against the
        library's own)."""
        names = group.encode() + b"\0" + self.member.encode() + b"\0"
        return b"CGMDv2:" + struct.pack("<i", self.generation) + names + _NO_INSTANCE
