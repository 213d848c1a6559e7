"""What a synthetic world may be told: its size, what is planted in it, and how its events reach the service."""

from __future__ import annotations

from dataclasses import dataclass, fields

from forebay.clock import DAY_MS, MINUTE_MS
from forebay.errors import UsageError


@dataclass(frozen=True)
class WorldOptions:
    """Raises UsageError for what no world can be made of. Weights are in logits, shares between 0 and 1."""

    events: int = 100_000  # impressions, exactly
    users: int = 2_000
    items: int = 1_000
    days: float = 14.0
    seed: int = 0
    start_ms: int = 20_000 * DAY_MS  # event time zero; the last impression is before start_ms + days
    topics: int = 12

    item_zipf_exponent: float = 0.8
    user_zipf_exponent: float = 0.6  # activity: the busiest of 2,000 users has 2 % of the events
    items_born_share: float = 0.3  # inside the window
    users_born_share: float = 0.4  # each begins with a session
    drift_share: float = 0.5  # of users change their favourite topics once

    session_mean_impressions: float = 12.0
    session_max_impressions: int = 30
    gap_min_s: float = 5.0
    gap_max_s: float = 60.0
    trending_share: float = 0.25  # of sessions want the topic of the day
    random_share: float = 0.45  # any topic
    taste_share: float = 0.30  # a favourite topic
    shown_intent_share: float = 0.35  # of impressions are of the wanted topic, as a search would show
    shown_taste_share: float = 0.15  # of a favourite one, as a recommender of yesterday would

    bias: float = -2.0
    intent_weight: float = 3.0
    taste_weight: float = 1.0
    cohort_weight: float = 0.5
    quality_weight: float = 0.6

    daily_swing: float = 0.8  # the rate goes between 1 - swing and 1 + swing of its mean
    burst_factor: float = 10.0
    burst_minutes: float = 20.0  # once a day; longer than most sessions, which smear its edges
    duplicate_share: float = 0.01
    disorder_share: float = 0.05
    disorder_max_s: float = 60.0
    late_share: float = 0.01
    late_max_s: float = 3_600.0

    @classmethod
    def sized(cls, events: int, users: int | None = None, items: int | None = None, **others: float) -> WorldOptions:
        """Fifty events for each user, and items that grow with the root of the log, unless told otherwise."""
        return cls(
            events=events,
            users=max(1, events // 50) if users is None else users,
            items=max(cls.topics, int(3 * max(events, 0) ** 0.5)) if items is None else items,
            **others,  # type: ignore[arg-type]
        )

    def __post_init__(self) -> None:
        for name in ("events", "users", "topics", "session_max_impressions"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "Use 1 or more")
        _require(self.seed >= 0, f"seed is {self.seed}", "Use 0 or more")
        _require(self.items >= self.topics, f"{self.items} items for {self.topics} topics", "Give each topic an item")
        for field in fields(self):
            share = getattr(self, field.name)
            if field.name.endswith("_share"):
                _require(0 <= share <= 1, f"{field.name} is {share}", "Use a number between 0 and 1")
        intents = self.trending_share + self.random_share + self.taste_share
        _require(abs(intents - 1) < 1e-9, f"the shares of intents add up to {intents}", "Make it 1")
        _require(0 < self.gap_min_s <= self.gap_max_s, "gaps are not in order", "Use 0 < gap_min_s <= gap_max_s")
        _require(self.session_mean_impressions >= 1, "sessions without impressions", "Use a mean of 1 or more")
        _require(0 <= self.daily_swing < 1, f"daily_swing is {self.daily_swing}", "Use 0 or more and less than 1")
        room = self.days * DAY_MS - self.longest_session_ms
        _require(room >= MINUTE_MS, f"{self.days} days are too short for a session", "Use 0.1 or more")

    @property
    def longest_session_ms(self) -> int:
        return int(self.session_max_impressions * self.gap_max_s * 1000) + 1


def _require(holds: bool, what: str, do: str) -> None:
    if not holds:
        raise UsageError(what, where="synthetic world", do=do)
