"""A small world whose answer is evident, with segments for both uses."""

from __future__ import annotations

import tomllib

import numpy as np

from forebay.events import Behaviour, ItemUpdate, UserProfile
from forebay.segments.history import History
from forebay.segments.spec import parse_spec
from forebay.segments.training import RetrieveOptions, TrainingOptions

SPEC_TABLES = tomllib.loads("""
[events]
actions = ["rate"]
[label]
positive = "value >= 4"
[attributes.item]
genre = { category = ["war", "love", "crime"] }
[user.taste]
features = [{ count = "genre", where = "value >= 4" }, { count = "genre" }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[user.recent]
features = [{ last = 5, of = ["item", "genre", "value", "age"] }]
encoder = { kind = "attention_pool", queries = 2, hidden = 16 }
dim = 8
[user.next]
features = [{ last = 5, of = ["item", "genre", "value"] }]
encoder = { kind = "attention_pool", queries = 1, hidden = 16 }
dim = 8
[item.content]
features = [{ latest = ["genre"] }]
encoder = { kind = "mlp", hidden = [16] }
dim = 8
[item.next]
features = [{ latest = ["genre"] }, { id = 8 }]
encoder = { kind = "mlp", hidden = [] }
dim = 8
[fusion]
retrieve = { kind = "weighted_sum", user = ["next"], item = ["next"] }
rank = { kind = "affinity", hidden = 8, user = ["taste", "recent"], item = ["content"] }
""")
SPEC = parse_spec(SPEC_TABLES)
GENRES = ("war", "love", "crime")
USERS, ROUNDS, ITEMS = 24, 40, 300  # a hundred items of each genre: recall@50 of chance is a sixth, of the genre a half
START, STEP = 1_700_000_000_000, 60_000
OPTIONS = TrainingOptions(
    train_share=0.5, validation_share=0.25, epochs=3, batch_size=64, learning_rate=0.01, weight_decay=0.01, seed=1,
    retrieve=RetrieveOptions(epochs=20, patience_epochs=20, batch_size=64, learning_rate=0.02, weight_decay=0.01),
)  # fmt: skip


def liked_genres() -> History:
    """A user likes one genre; a third of what is shown is liked by chance besides."""
    random = np.random.default_rng(0)
    events: list[Behaviour | UserProfile | ItemUpdate] = [
        ItemUpdate(f"i{n}", {"genre": GENRES[n % 3]}, START - 1, "new") for n in range(ITEMS)
    ]
    for number in range(USERS * ROUNDS):
        user, item, time = number % USERS, int(random.integers(ITEMS)), START + number * STEP
        value = 5.0 if user % 3 == item % 3 else 1.0
        events.append(Behaviour(f"u{user}", f"i{item}", "rate", value, time, f"e{number}", {"genre": GENRES[item % 3]}))
    return History.of(events)
