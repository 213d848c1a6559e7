"""What an archive's imported files hold already: a second import of the same events changes nothing."""

from __future__ import annotations

import numpy as np

from forebay.arrays import Bools, Ints
from forebay.errors import UsageError
from forebay.segments.blocks.block import Block, texts
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE
from forebay.segments.state.hashing import hashes_of
from forebay.streams.intake.accept import Accepted
from forebay.streams.intake.duplicates import Identities, IdentitySet, identities_of
from forebay.streams.intake.fields import ID, ITEM, USER

# A profile, an update and a behaviour may have one entity, time and id, and are three events. Odd, as hashes may be.
_OF_KIND = np.array([0, 0x5851F42D4C957F2D, 0x14057B7EF767814F, 0], np.int64)


class Imported:
    """The identities of what was imported, of at most `max_bytes`: 32 to 64 bytes an event. One thread."""

    since = 0

    def __init__(self, max_bytes: int) -> None:
        self._set, self._max_bytes = IdentitySet(max_bytes), max_bytes

    def add(self, times: Ints, identities: Identities) -> Bools:
        """See Known. Raises UsageError where they take more memory than they may."""
        try:
            return self._set.add(times, identities)
        except MemoryError as error:
            raise UsageError(
                str(error), do="Raise the setting intake_memory_mb; what was written stays, and is not written again"
            ) from None

    def load(self, block: Block) -> None:
        """Take the events of a Block of before."""
        user, item, name = (texts(block.batch.column(column)) for column in ("user", "item", "id"))
        kinds, times = block.numbers("kind"), block.numbers("time")
        entities = np.where(kinds == ITEM_UPDATE, hashes_of(*item), hashes_of(*user)) ^ _OF_KIND[kinds]
        self.add(times, identities_of(entities, times, hashes_of(*name)))

    def new(self, accepted: Accepted) -> Ints:
        """The rows of `accepted` without the profiles and updates that were there before: an Intake lets those pass,
        since they change nothing, and has dropped the behaviours."""
        fields, rows = accepted.fields, accepted.rows
        at = np.flatnonzero(fields.kind[rows] != BEHAVIOUR)
        if not len(at):
            return rows
        told = rows[at]
        kinds, times = fields.kind[told].astype(np.int64), fields.time[told]
        places = np.where((kinds == ITEM_UPDATE)[:, None], fields.texts[told, ITEM], fields.texts[told, USER])
        entities = hashes_of(fields.data, places[:, 0], places[:, 1]) ^ _OF_KIND[kinds]
        ids = hashes_of(fields.data, *fields.texts[told, ID].T)
        kept = np.ones(len(rows), np.bool_)
        kept[at] = self.add(times, identities_of(entities, times, ids))
        return rows[kept]
