"""What the benchmark of poison sends."""

from __future__ import annotations

import itertools
from collections import Counter

from forebay.clock import now_ms
from forebay.streams.intake.accept import Acceptor
from forebay.streams.intake.duplicates import HourSets
from forebay.streams.worker.batch import PartitionBatch
from poison import mixed, poison

KINDS = 12


def test_the_intake_refuses_each_kind_of_poison_and_for_several_reasons() -> None:
    """Else the benchmark would measure good records."""
    now = now_ms()
    values = list(itertools.islice(poison(now), 2 * KINDS))
    batch = PartitionBatch(0, [b"u1"] * len(values), values, range(len(values)), [now] * len(values))
    acceptor = Acceptor(("behaviour/0",))
    accepted = acceptor.accept([batch], {0: HourSets()})
    assert len(accepted.letters) == len(values)
    assert len(accepted.rows) == 0
    reasons = Counter(letter.reason for letter in accepted.letters)
    assert set(reasons) == {"undecodable", "bad_id", "bad_value", "bad_time", "late", "future"}


def test_poison_stands_evenly_among_all_good_records() -> None:
    """Under the key of the record before it, and none of the good ones is lost."""
    good = [(f"u{n}".encode(), b"good") for n in range(27)]
    sent = list(mixed(good, itertools.repeat(b"bad"), 9))
    assert [n for n, (_, value) in enumerate(sent) if value == b"bad"] == [9, 19, 29]
    assert sent[9][0] == b"u8"
    assert [pair for pair in sent if pair[1] == b"good"] == good
    assert list(mixed(good, itertools.repeat(b"bad"), 0)) == good
