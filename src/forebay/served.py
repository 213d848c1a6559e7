"""What is served, by the settings: for `forebay serve` in one process or several, and for lookups inside a service."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from forebay.config import Settings
from forebay.errors import ConfigError
from forebay.shard import Shard

if TYPE_CHECKING:  # what a server installs is loaded by whoever serves
    from forebay.segments.bundle import Bundle
    from forebay.store.generation import Generation
    from forebay.store.indexkeeper import IndexOptions
    from forebay.store.servingcopy import ServingCopy

log = logging.getLogger("forebay")
KEEP_S = 60.0  # a killed node begins with the users that were in memory so long ago


def served_model(settings: Settings) -> tuple[Bundle, Generation]:
    """The bundle and the generation that are served. Raises UsageError where it has fewer partitions than shards."""
    from forebay.segments.bundle import Bundle
    from forebay.store.generation import Generation

    generation = Generation.load(settings.generation_dir, name=settings.generation)
    shard_of(settings).partitions(generation.partitions["user"])
    return Bundle.load(settings.bundles / generation.bundle_hash[:12]), generation


def shard_of(settings: Settings) -> Shard:
    """Which users are served."""
    return Shard.parse(settings.shard)


def index_options(settings: Settings) -> IndexOptions:
    """Of the item index. Raises ConfigError."""
    from forebay.store.indexkeeper import IndexOptions

    share = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)\s*%", settings.index_recall)
    if share is None or float(share[1]) < 50:
        raise ConfigError(
            "this is no recall of an index", where="index_recall", do='Write a share from "50%" to "99.9%"'
        )
    return IndexOptions(recall=float(share[1]) / 100)


def opened_copy(settings: Settings, bundle: Bundle, generation: Generation) -> ServingCopy:
    """The copy of one process, over its store, with the store's rows in memory. Raises as ServingCopy.open does."""
    from forebay.store.servingcopy import ServingCopy

    copy = ServingCopy.open(
        bundle, generation, settings.vectors,
        shard=shard_of(settings), users_in_memory=settings.users_in_memory, index=index_options(settings),
    )  # fmt: skip
    try:
        log.info("%d rows loaded from %s", copy.load(), settings.vectors)
    except BaseException:
        copy.close()
        raise
    return copy


_NEVER_S = 10 * 365 * 86_400.0  # since 1970, where a partition has no watermark yet


def behind(lag_s: float, max_lag_s: float) -> str:
    """Why a copy so far behind the log is not ready; "" where it is."""
    if lag_s <= max_lag_s:
        return ""
    if lag_s > _NEVER_S:
        return "no worker has told how far it is: is one running?"
    return f"{lag_s:.0f} s behind the log, past {max_lag_s:.0f}: is a worker running?"


def kept(keep: Callable[[], None], stop: threading.Event) -> None:
    """Write down who is in memory now and then, and at the end. A disk that does not take it is told of."""
    while True:
        ended = stop.wait(KEEP_S)
        try:
            keep()
        except OSError as error:
            log.warning("which users are in memory is not written down: %s", error)
        if ended:
            return
