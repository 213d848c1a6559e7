"""A `[[source]]` is checked before anything is read, and what is wrong with it is said in its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forebay.config import Settings, SourceTable, load
from forebay.errors import ConfigError, UsageError
from forebay.streams.installation import foreign_of, topics_of
from forebay.streams.sources.foreign import KEYS, Foreign
from forebay.streams.topics import Topics

MAP = {"user": "u", "item": "i", "action": "a", "time": "t"}


def _foreign(**values: Any) -> Foreign:
    return Foreign.of(SourceTable({"topic": "shop", "format": "json", "map": MAP} | values, "forebay.toml"))


def test_tables_of_the_file_are_the_sources(tmp_path: Path) -> None:
    """Several of them, beside the installation's own topics; attributes may be tables in tables."""
    file = tmp_path / "forebay.toml"
    file.write_text(
        'topic_prefix = "p."\n'
        '[[source]]\ntopic = "shop.clicks"\nformat = "json"\ntime_unit = "us"\n'
        'map = { user = "customer.id", item = "sku", action = "event", time = "ts", attributes.page = "url" }\n'
        "set = { value = 1.0, attributes = { shop = 7 } }\n"
        '[[source]]\ntopic = "likes"\nformat = "msgpack"\n'
    )
    settings, origins = load({}, file=file, environment={})
    assert origins["source"] == str(file)
    assert topics_of(settings).sources == ("p.behaviour", "p.item-updates", "shop.clicks", "likes")
    clicks, likes = foreign_of(settings)
    assert clicks.shape.columns["attributes.page"] == "url" and clicks.shape.columns["user"] == "customer.id"
    assert clicks.shape.constants == {"value": 1.0, "attributes.shop": 7.0} and clicks.shape.unit == "us"
    assert not clicks.shape.own and likes.shape.own and likes.format == "msgpack"
    assert foreign_of(Settings()) == []


@pytest.mark.parametrize("variable", [True, False])
def test_a_source_that_is_no_table_is_refused(variable: bool, tmp_path: Path) -> None:
    """As it is where a variable names it: a table does not fit into one."""
    file = tmp_path / "forebay.toml"
    file.write_text("" if variable else 'source = "shop"\n')
    with pytest.raises(ConfigError, match="source is no list of tables") as raised:
        load({}, file=file, environment={"FOREBAY_SOURCE": "shop"} if variable else {})
    assert "[[source]]" in raised.value.do


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"topic": ""}, "names no topic"),
        ({"topic": 7}, "names no topic"),
        ({"colour": "red"}, "a [[source]] has no 'colour'"),
        ({"format": "xml"}, "format = 'xml'"),
        ({"format": 7}, "format is not a text"),
        ({"map": "user"}, "map is no table"),
        ({"map": MAP | {"user": 7}}, "map: user is no text"),
        ({"map": MAP | {"customer": "c"}}, "an event has no 'customer'"),
        ({"map": {"item": "i", "action": "a", "time": "t"}}, "nothing says what user is"),
        ({"map": {"user": "u", "item": "i", "time": "t"}}, "nothing says what action is"),
        ({"map": {"user": "u", "item": "i", "action": "a"}}, "nothing says what an event's time is"),
        ({"set": {"type": "order"}}, "set: type = 'order'"),
        ({"set": {"value": "much"}}, "set: value is 'much'"),
        ({"time_unit": "min"}, "'min' is no unit of time"),
        ({"no_time": "now"}, "no_time = 'now'"),
        ({"text": "attributes.a"}, "text is no list"),
        ({"text": ["user"]}, "'user' is no attribute"),
        ({"split": {"attributes": {"a": 1}}}, "split: attributes.a is no text"),
        ({"deletes": "skip"}, "deletes is of debezium alone"),
        ({"encoding": "json"}, "encoding is of cloudevents and debezium"),
        ({"registry": "http://r:8081"}, "json asks no registry"),
    ],
)
def test_what_a_source_cannot_be_is_refused_by_name(values: dict[str, Any], says: str) -> None:
    """With the place in the file, and what to write instead."""
    with pytest.raises(ConfigError) as raised:
        _foreign(**values)
    assert says in raised.value.what
    assert raised.value.where.startswith("forebay.toml") and raised.value.do


def test_a_source_without_a_time_takes_the_logs_where_it_says_so() -> None:
    """It must say so."""
    found = _foreign(map={"user": "u", "item": "i", "action": "a"}, no_time="append")
    assert found.no_time == "append"


def test_a_topic_of_the_installation_is_nobody_elses() -> None:
    """Nor is one named twice: its events would be read twice."""
    for name in ("p.behaviour", "p.events.user", "p.vectors.g1.item", "p.dead-letters", "p.catalogue"):
        with pytest.raises(UsageError, match="is a topic of this installation"):
            Topics("p.", (name,))
    with pytest.raises(UsageError, match="is named twice"):
        Topics("p.", ("behaviour", "behaviour"))
    assert Topics("p.", ("behaviour",)).foreign == ("behaviour",)
    assert "topic" in KEYS
