"""MovieLens-100K, read in place from the package that carries it."""

from __future__ import annotations

import pytest

from forebay.clock import DAY_MS
from forebay.errors import UsageError
from forebay.segments.datasets import movielens
from forebay.segments.history import History

NOW = 1_790_000_000_123


@pytest.fixture(scope="module")
def history() -> History:
    try:
        movielens.folder()
    except UsageError as error:
        pytest.skip(f"{error}")
    return movielens.load()


def test_it_is_all_there(history: History) -> None:
    """A hundred thousand ratings of 1,682 films by 943 users, in order of time, each rating an event of its own."""
    ratings = history.behaviours
    assert len(ratings) == 100_000
    assert len({b.user for b in ratings}) == len(history.profiles) == 943
    assert len({b.item for b in ratings}) == len(history.items) == 1_682
    assert len({b.id for b in ratings}) == 100_000
    times = [b.time or 0 for b in ratings]
    assert times == sorted(times)
    assert {b.value for b in ratings} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_attributes_travel_in_the_rating(history: History) -> None:
    """What the user side folds is in the event: no join while processing. They are known before the first rating."""
    items = {i.item: i.attributes for i in history.items}
    assert all(b.item_attributes == items[b.item] for b in history.behaviours)
    assert items["1"] == {"genres": ["Animation", "Children's", "Comedy"], "year": 1995.0}
    first = history.behaviours[0].time or 0
    assert {e.time for e in (*history.items, *history.profiles)} == {first - DAY_MS}
    assert set(history.profiles[0].attributes) == {"age", "gender", "occupation"}


def test_times_are_shifted_by_whole_days_to_just_before_now(history: History) -> None:
    """Hours of the day stay what they were; the last rating is within a day before now and never after it."""
    shifted = movielens.load(now_ms=NOW).behaviours
    shifts = {(b.time or 0) - (a.time or 0) for a, b in zip(history.behaviours, shifted, strict=True)}
    assert len(shifts) == 1 and shifts.pop() % DAY_MS == 0
    assert NOW - DAY_MS < (shifted[-1].time or 0) <= NOW


def test_a_share_is_the_first_part_and_ends_before_now(history: History) -> None:
    """The last rating of the part is the one that is brought near to now; users and items are all there."""
    part = movielens.load(now_ms=NOW, share=0.1)
    assert [b.id for b in part.behaviours] == [b.id for b in history.behaviours[:10_000]]
    assert NOW - DAY_MS < (part.behaviours[-1].time or 0) <= NOW
    assert (len(part.profiles), len(part.items)) == (943, 1_682)


def test_titles_have_their_year(history: History) -> None:
    """For people to read."""
    titles = movielens.titles()
    assert titles["1"] == "Toy Story (1995)" and len(titles) == 1_682
