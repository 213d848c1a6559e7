"""How a worker takes a partition over: its store is opened, folded silently to where the group is, and read aloud.

A Worker calls `open` for each partition that was assigned, and `restore` for those that are behind the group, before it
applies anything of them. Nothing is told here and no offset is moved: a crash leaves the group where it was, and the
folders as stores.py says. The next owner begins again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from threading import Event

from forebay.errors import StoreLeads
from forebay.streams.worker.assignment import Assignment
from forebay.streams.worker.keeper import Keeper
from forebay.streams.worker.refusals import log_gap, never_accepted, store_leads
from forebay.streams.worker.stage import Owned, Stage
from forebay.streams.worker.standby import Standby
from forebay.streams.worker.stores import Stores
from forebay.streams.worker.transport import Transport
from forebay.telemetry import emit

log = logging.getLogger("forebay.worker")


class Takeover:
    """Takes the partitions of one worker over. One thread; `catching_up` may be read from any."""

    def __init__(
        self, stage: Stage, transport: Transport, assignment: Assignment, stores: Stores, keeper: Keeper | None,
        standby: Standby | None, most: int, turned: Callable[[], None],
    ) -> None:  # fmt: skip
        """Up to `most` records are folded at once, and `turned` is called between two of those."""
        self._stage, self._transport, self._assignment = stage, transport, assignment
        self._stores, self._keeper, self._standby = stores, keeper, standby
        self._most, self._turned = most, turned
        self.catching_up = False

    def open(self, partition: int, stop: Event) -> None:
        """Open the partition's store and go on where the group is, or leave it to `restore`.

        What can be refused for want of state is refused before the slot is taken: taking it ends whoever had it.
        Raises CheckpointError where the state is there and does not arrive, and as Worker.run does.
        """
        source, assignment = self._transport.source(partition), self._assignment
        assignment.met_end.pop(partition, None)
        assignment.claims.forget(partition)
        warm = None if self._standby is None else self._standby.take(partition)
        found = self._stores.find(partition, source, self._turned, stop, warm)
        try:
            self._transport.take(stop)
            done, first = self._transport.committed(partition), self._transport.first(partition)
            found = self._stores.take(partition, source, found, done, first, self._turned, stop)
            if stop.is_set():
                # What is open may be behind the group: the last commit would set that back to it.
                self._stage.close(partition)
                return
            if (owned := found.owned) is None:
                if found.checkpoints and self._stage.needs_all:
                    raise self._leads(partition, found.checkpoints[0].offset, done or 0)
                # Where the group has been already, an empty store needs the log from its beginning on.
                owned = self._stores.make(partition, source, first if done is None or not self._stage.needs_all else 0)
            self._past_what_is_gone(owned, partition, done, first)
            store = owned.meta.offset
            if done is not None and store > done:
                raise self._leads(partition, store, done)
        except BaseException:
            self._stage.close(partition)
            if self._standby is not None and warm is not None:
                self._standby.give_back(warm)  # it is asked for again
            raise
        assignment.committed[partition] = store if done is None else done
        if self._keeper is not None:
            self._keeper.opened(partition, found.newest_ms)
        # What the sources took before it is in the state, and a log has a record no earlier than its source.
        assignment.ages.nothing_before(partition, owned.meta.as_of)
        if done is not None and store < done:
            assignment.restoring[partition] = done
        else:
            assignment.went_on(partition)
            self._go_on(partition, store, stop)

    def restore(self, partition: int, stop: Event) -> bool:
        """Fold what lies between the store's offset and the group's, and return whether that is done: the log has been
        told of it, so nothing is told again. 65 thousand events take half a second or less."""
        assignment, place = self._assignment, self._assignment.place(partition)
        owned, end = self._stage.partitions[partition], assignment.restoring[partition]
        started, events = time.perf_counter(), 0
        with contextlib.closing(self._transport.read(partition, owned.meta.offset, end, self._most, stop)) as batches:
            for batch in batches:
                if batch is not None and (waiting := self._stage.waits([batch])):
                    # Half restored it has nothing to tell, and the others are not to wait for it.
                    assignment.put_off(partition, waiting[partition])
                    del assignment.restoring[partition]
                    self._stage.close(partition)
                    return False
                if batch is not None:
                    events += self._stage.apply([batch], aloud=False).events
                    assignment.ages.committed(assignment.newest([batch]))
                self._turned()
        if stop.is_set():
            return False
        owned.advance(end, 0)  # the last offsets before it may be a transaction's own marks
        del assignment.restoring[partition]
        assignment.went_on(partition)
        self._go_on(partition, end, stop)
        seconds = time.perf_counter() - started
        log.info("%s: %d events folded again in %.2f s", place, events, seconds)
        emit("restored", stage=self._stage.name, partition=partition, events=events, seconds=seconds)
        return True

    def _go_on(self, partition: int, offset: int, stop: Event) -> None:
        """Read the partition aloud from `offset`. What its former owner told of the followed topic is known by then."""
        self.catching_up = True
        try:
            with contextlib.closing(self._transport.catch_up(stop)) as parts:
                for batches in parts:
                    self._stage.learn(batches)
                    self._turned()
        finally:
            self.catching_up = False
        if not stop.is_set():  # else half of it may be known
            self._transport.go_on(partition, offset, stop)

    def _past_what_is_gone(self, owned: Owned, partition: int, done: int | None, first: int) -> None:
        """Raise LogGap where records are gone that the state needs; step over those that it does not."""
        if owned.meta.offset >= first:
            return
        place = self._assignment.place(partition)
        if self._stage.needs_all:
            raise log_gap(place)
        if done is None or done < first:
            raise never_accepted(place, self._transport.reset_command(partition, first))
        owned.advance(first, 0)

    def _leads(self, partition: int, store: int, done: int) -> StoreLeads:
        command = self._transport.reset_command(partition, store)
        return store_leads(store, done, f"{self._assignment.place(partition)}, group {self._transport.group}", command)
