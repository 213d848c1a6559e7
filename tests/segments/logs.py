"""Random logs of one side, as the clean log has them: each event once."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from forebay.clock import DAY_MS
from forebay.events import Attribute, Attributes, Behaviour, ItemUpdate, Tick, UserProfile, entity_of
from forebay.segments.spec import Side, Spec
from forebay.segments.spec.attribute import AttributeSpec

Entry = Behaviour | UserProfile | ItemUpdate | Tick

SPANS_MS = (50, 3_000, 60_000, 3_600_000, DAY_MS, 40 * DAY_MS)
VALUES = (0.0, 1.0, -1.0, 2.5, 4.0, 0.0005, 0.0015, -0.0025, 999_999.999)


def entity_on(side: Side, entry: Entry) -> str:
    """The entity of this side whose state an entry changes; "" for a tick."""
    return entry.item if side == "item" and isinstance(entry, Behaviour) else entity_of(entry)


def random_log(random: Random, spec: Spec, side: Side, size: int) -> list[Entry]:
    """Different events of a few entities and ticks anywhere; an event is known by (entity, time, id), and ids come
    again."""
    start = random.choice([1, 1_700_000_000_000 + random.randrange(DAY_MS)])
    span = random.choice(SPANS_MS)
    entities = [f"{side}{n}" for n in range(random.randint(1, 4))]
    ids = [f"e{n}" for n in range(random.choice([2, size * 4]))]
    times = [start]
    seen: set[tuple[str, int, str]] = set()
    log: list[Entry] = []
    for _ in range(random.randint(1, size)):
        time = random.choice(times) if random.random() < 0.3 else start + random.randrange(span)
        times.append(time)
        entity, identity = random.choice(entities), random.choice(ids)
        if random.random() < 0.08:
            log.append(Tick(max(1, time + random.randint(-span, span))))
        elif (entity, time, identity) not in seen:
            seen.add((entity, time, identity))
            log.append(_event(random, spec, side, entity, time, identity))
    return log


def _event(random: Random, spec: Spec, side: Side, entity: str, time: int, identity: str) -> Entry:
    if random.random() < 0.15:
        attributes = _attributes(random, spec.attributes[side])
        kind = UserProfile if side == "user" else ItemUpdate
        return kind(entity, attributes, time, identity)
    action = random.choice([*spec.events.actions, "unheard of"])
    value = random.choice([*VALUES, random.uniform(-5, 5)])
    other = f"other{random.randrange(9)}"
    own = _attributes(random, spec.event_attributes) if spec.event_attributes else {}
    # In the logs of both sides: an item's row is not made of what its events say of it.
    of_item = _attributes(random, spec.attributes["item"])
    user, item = (entity, other) if side == "user" else (other, entity)
    return Behaviour(user, item, action, value, time, identity, of_item, own)


def _attributes(random: Random, declared: Sequence[AttributeSpec]) -> Attributes:
    """Known and unknown values, absent ones, and some of another type than the one declared."""
    out: Attributes = {"undeclared": "x"}
    for attribute in declared:
        known = [*attribute.values, "unknown"]
        members = random.sample(known, random.randint(0, min(3, len(known))))
        if attribute.buckets:
            known = [f"any {n}" for n in range(9)]
        choices: list[Attribute] = [members, random.choice(known), random.choice([0.0, 1.5, 2.5, 3.0, -7.25, 1999.0])]
        place = {"set": 0, "category": 1, "number": 2}[attribute.kind]
        if random.random() < 0.85:
            out[attribute.name] = random.choice(choices) if random.random() < 0.1 else choices[place]
    return out
