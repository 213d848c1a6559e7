"""Specs for the tests of this room, and bundles of them that nobody trained."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forebay.segments.bundle import Bundle
from forebay.segments.encoders import build, encode
from forebay.segments.fusions.contract import Shape
from forebay.segments.spec import SIDES, USES, Side, Spec, load_spec, parse_spec
from forebay.segments.state.layout import Layout
from forebay.segments.state.readout import SegmentReader, Vocabulary
from forebay.segments.training.twins import twin

MOVIELENS = Path(__file__).parents[2] / "segments" / "movielens.toml"

# Every kind of feature, each with the options that make it harder: conditions, windows, all kinds of keys, shared
# blocks.
NASTY = """
[events]
actions = ["view", "like", "buy"]
[label]
positive = "action == 'buy'"
impression = "action != 'like'"
[attributes.item]
genres = { set = ["war", "love", "crime"] }
colour = { category = ["red", "blue"] }
price = { number = true }
[attributes.user]
languages = { set = ["de", "fr"] }
country = { category = ["at", "ch"] }
born = { number = true }
[user.profile]
features = [{ latest = ["country", "languages", "born"] }, { count = "events" }]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[user.recent]
features = [{ last = 4, of = ["item", "action", "value", "age", "genres", "colour", "price"] }, { count = "events" }]
encoder = { kind = "attention_pool", queries = 2, hidden = 8 }
dim = 8
[user.liked]
features = [{ last = 3, of = ["item", "age"], where = "action in ('like', 'buy') and value > 0" }]
encoder = { kind = "attention_pool", queries = 1, hidden = 8, embedding = 4 }
dim = 8
[user.short]
features = [{ last = 2, of = ["value"] }, { latest = ["born"] }]
encoder = { kind = "attention_pool", queries = 1, hidden = 8 }
dim = 8
[user.windows]
features = [
    { count = "events", bucket = "1s", over = "5s" },
    { count = "action", bucket = "1h", over = "24h" },
    { mean = "value", by = "genres", bucket = "1d", over = "30d", where = "not action == 'view'" },
    { count = "colour", bucket = "10m", over = "1h", where = "value <= 0 or value == 2.5" },
    { mean = "value", bucket = "7ms", over = "7ms" },
]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[user.counts]
features = [
    { count = "genres" },
    { count = "genres", where = "value >= 2.5" },
    { mean = "value", by = "action" },
    { mean = "value", by = "colour", where = "action not in ('buy', 'view')" },
]
encoder = { kind = "mlp", hidden = [] }
dim = 8
[user.fading]
features = [
    { count = "genres", half_life = "2h" },
    { count = "genres", half_life = "40m", bucket = "30m", over = "10h" },
    { mean = "value", by = "action", half_life = "7d", where = "value != 4" },
    { count = "events", half_life = "1s", bucket = "700ms", over = "2100ms" },
]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[user.crossed]
features = [
    { count = ["genres", "action"] },
    { mean = "value", by = ["action", "colour"], bucket = "1h", over = "5h" },
    { count = ["colour", "genres"], half_life = "1d", where = "value >= 0" },
    { count = ["action", "genres"], bucket = "30m", over = "10h" },
]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[item.id]
features = [{ id = 4 }, { latest = ["colour"] }]
encoder = { kind = "mlp", hidden = [8, 8] }
dim = 8
[item.content]
features = [{ latest = ["genres", "colour", "price"] }]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[item.stats]
features = [
    { count = "events" },
    { count = "action", bucket = "1h", over = "6h" },
    { mean = "value", by = "action", bucket = "1d", over = "7d", where = "action != 'view'" },
    { count = "events", bucket = "1s", over = "3s" },
    { mean = "value" },
    { mean = "value", by = "action", half_life = "3h" },
]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
"""

# No list without a condition.
LISTLESS = """
[events]
actions = ["view", "like"]
[label]
positive = "value > 3"
[attributes.item]
genres = { set = ["war", "love"] }
[user.taste]
features = [{ count = "genres", bucket = "1m", over = "10m" }, { mean = "value" }]
encoder = { kind = "mlp" }
dim = 4
[user.liked]
features = [{ last = 40, of = ["value"], where = "action == 'like'" }]
encoder = { kind = "attention_pool" }
dim = 4
[item.stats]
features = [{ count = "events" }]
encoder = { kind = "mlp" }
dim = 4
"""

# Attributes of the events themselves, and categories without a list of values, wherever a feature can name one.
OWN = """
[events]
actions = ["view", "click"]
[label]
positive = "action == 'click' and position <= 3"
[attributes.item]
genres = { set = ["war", "love"] }
shop = { category = { buckets = 5 } }
[attributes.user]
town = { category = { buckets = 16 } }
[attributes.event]
position = { number = true }
device = { category = ["phone", "desk"] }
page = { category = { buckets = 4 } }
tags = { set = ["new", "sale"] }
[user.profile]
features = [{ latest = ["town"] }, { count = "events", where = "device == 'phone'" }]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[user.recent]
features = [{ last = 4, of = ["item", "position", "device", "page", "tags", "shop"] }]
encoder = { kind = "attention_pool", queries = 2, hidden = 8 }
dim = 8
[user.near]
features = [{ last = 3, of = ["position", "age"], where = "position <= 2.5 and not 'sale' in tags" }]
encoder = { kind = "attention_pool", queries = 1, hidden = 8 }
dim = 8
[user.counts]
features = [
    { count = "device" },
    { count = "page", bucket = "1h", over = "5h" },
    { mean = "value", by = ["tags", "device"] },
    { count = ["device", "genres"], where = "device not in ('desk',) or position > 7" },
    { count = ["shop", "page"], half_life = "2h" },
    { mean = "value", by = "tags", where = "'new' in tags or 'sale' not in tags" },
    { count = "action", where = "position != 1.5 and position not in (3, 4)" },
]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[item.content]
features = [{ latest = ["shop", "genres"] }]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
[item.stats]
features = [
    { count = "device" },
    { mean = "value", by = "tags", bucket = "1d", over = "7d" },
    { count = ["page", "action"], where = "position >= 2 or device != 'phone'" },
    { count = "events", where = "position < 1e3", half_life = "3h" },
]
encoder = { kind = "mlp", hidden = [8] }
dim = 8
"""


@cache
def spec(name: str) -> Spec:
    """The spec called movielens, nasty, listless or own."""
    if name == "movielens":
        return load_spec(MOVIELENS)
    return parse_spec(tables(name))


def tables(name: str) -> dict[str, Any]:
    """A spec's tables, to be changed by whoever asks."""
    text = {"movielens": MOVIELENS.read_text(), "nasty": NASTY, "listless": LISTLESS, "own": OWN}[name]
    return tomllib.loads(text)


def untrained(spec: Spec, vocabulary: Vocabulary, seed: int, keep: Mapping[str, np.ndarray] | None = None) -> Bundle:
    """A bundle with random weights, scales included; those in `keep` are taken over from another one."""
    layouts: dict[Side, Layout] = {side: Layout.of(spec, side) for side in SIDES}
    tensors: dict[str, np.ndarray] = {"vocabulary.item": vocabulary.hashes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for side in SIDES:
            defaults = []
            for segment in spec.side(side):
                reader = SegmentReader(spec, segment, layouts[side], vocabulary)
                encoder = build(reader, len(vocabulary), segment)
                if encoder.scaled:
                    encoder.mean.normal_()
                    encoder.scale.uniform_(0.5, 2.0)
                for name, tensor in encoder.state_dict().items():
                    title = f"{segment.title}.{name}"
                    if keep and title in keep:
                        tensor.copy_(torch.from_numpy(keep[title]))
                    tensors[title] = tensor.numpy().copy()
                empty = reader.read(np.zeros((1, layouts[side].width), np.int64), np.zeros(1, np.int64))
                defaults.append(encode(encoder, empty)[0])
            tensors[f"default.{side}"] = np.concatenate(defaults)
        for use in USES:
            for name, tensor in twin(spec.fusions[use], Shape.of(spec, use)).state_dict().items():
                tensors[f"fusion.{use}.{name}"] = torch.randn_like(tensor).numpy()
    return Bundle(spec, tensors, {"trained": False})
