"""An import: files of somebody's history through the Intake's own acceptance, into an archive.

Files appear in the archive whole, a million events each. What a killed import had not written is in none; the next one
reads what there is first, and writes what is missing. So an import may be run again at any time.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from forebay.clock import now_ms
from forebay.segments.blocks.block import Block
from forebay.segments.blocks.schema import BEHAVIOUR, ITEM_UPDATE, USER_PROFILE
from forebay.segments.history.archive import IMPORTED, Archive, Place, write_imported
from forebay.streams.imports.identities import Imported
from forebay.streams.imports.rawfile import RawFile
from forebay.streams.imports.refusals import Refusals
from forebay.streams.imports.rows import Chunk, Original, Reader
from forebay.streams.intake.accept import Acceptor, Rules
from forebay.streams.sources.mapping import Shape
from forebay.streams.worker.batch import PartitionBatch

_NEVER_LATE_MS = 1 << 62  # history is old
_KINDS = {BEHAVIOUR: "behaviours", USER_PROFILE: "profiles", ITEM_UPDATE: "item_updates"}


@dataclass
class Counts:
    """What became of the rows: how many were new, of which kind, and how many were there before. `first` and `last` are
    the times of the new ones (ms), 0 for none."""

    accepted: int = 0
    duplicates: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first: int = 0
    last: int = 0

    def add(self, block: Block) -> None:
        """Count the events of a block of new ones, which has some."""
        times, kinds = block.numbers("time"), block.numbers("kind")
        self.accepted += len(block)
        self.kinds.update({name: n for kind, name in _KINDS.items() if (n := int((kinds == kind).sum()))})
        self.first = min(self.first or int(times.max()), int(times.min()))
        self.last = max(self.last, int(times.max()))


class Importer:
    """Brings files into one archive. An event that is more than `future_after_ms` ahead of now is refused; the
    identities of all that was ever imported there take `max_bytes` at most."""

    def __init__(self, place: Place, shape: Shape, refusals: Refusals, *, future_after_ms: int, max_bytes: int) -> None:
        self._place, self._reader, self._refusals = place, Reader(shape), refusals
        self._rules = Rules(_NEVER_LATE_MS, future_after_ms, needs_time=True)
        self._known = Imported(max_bytes)
        self._now = now_ms()
        self.counts = Counts()

    def run(self, files: Sequence[RawFile], told: Callable[[int, int], None], *, dry: bool = False) -> Counts:
        """Import `files`; `dry` writes nothing but refusals. `told(done, total)` counts bytes of files.

        Raises UsageError and ForebayError for a file that cannot be read, ArchiveError for an archive that cannot,
        StoreLocked where somebody else writes to it, UsageError where the identities need more memory. What was written
        before stays, and is not written again.
        """
        with nullcontext() if dry else self._place.locked():
            for block in Archive(self._place, {}, self._place.listed(IMPORTED)).brought():
                self._known.load(block)
            blocks = self._blocks(files, told)
            if dry:
                for _ in blocks:
                    pass
            else:
                name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}"  # no other import's
                write_imported(self._place, name, blocks)
        return self.counts

    def _blocks(self, files: Sequence[RawFile], told: Callable[[int, int], None]) -> Iterator[Block]:
        """What is new in `files`, in their order."""
        before, total = 0, sum(file.size for file in files)
        for file in files:
            acceptor = Acceptor((file.source,), self._rules)
            for chunk in self._reader.chunks(file):
                for refusal in chunk.refused:
                    error = refusal.error
                    self._refuse(file, refusal.place, error.reason, error.what, refusal.row)
                for block in self._accepted(file, acceptor, chunk):
                    self.counts.add(block)
                    yield block
                told(before + chunk.done, total)
            before += file.size
        told(total, total)

    def _accepted(self, file: RawFile, acceptor: Acceptor, chunk: Chunk) -> Iterator[Block]:
        count = len(chunk.values)
        if not count:
            return
        # Judged as if it came now. A line's number is its offset.
        batch = PartitionBatch(0, [None] * count, chunk.values, chunk.places, [self._now] * count)
        found = acceptor.accept([batch], {0: self._known})
        if found.letters:
            originals = dict(zip(chunk.places, chunk.originals, strict=True))
            for letter in found.letters:
                self._refuse(file, letter.offset, letter.reason, letter.message, originals[letter.offset])
        rows = self._known.new(found)
        self.counts.duplicates += found.duplicates + len(found.rows) - len(rows)
        # No log took it: its own time stands for that, so that the same file always gives the same events.
        yield from acceptor.whole(replace(found, rows=rows, appends=found.fields.time))

    def _refuse(self, file: RawFile, place: int, reason: str, what: str, row: Original) -> None:
        self._refusals.add(f"{file.name}:{place}", reason, what, row)
