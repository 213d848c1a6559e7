"""segments.toml: what it says is what is read, and what it cannot say is refused with what, where and a remedy."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from forebay.clock import DAY_MS, HOUR_MS
from forebay.errors import SpecError
from forebay.segments.spec import FeatureSpec, load_spec, parse_spec
from forebay.segments.spec.toml import duration_ms
from forebay.segments.state.layout import Layout

from ..models import MOVIELENS, NASTY, spec, tables


def test_the_demo_spec_says_what_it_says() -> None:
    """The defaults, the label and the order of the segments, read off the file."""
    loaded = spec("movielens")
    assert [s.title for s in loaded.segments] == [
        "user.profile", "user.recent", "user.taste", "user.affinity", "user.next",
        "item.id", "item.content", "item.stats", "item.affinity", "item.key", "item.pull",
    ]  # fmt: skip
    assert loaded.events.actions == ("rate",)
    assert loaded.events.retire_users_after_ms == 0
    assert loaded.label.positive.text == "value >= 4"
    assert loaded.attribute("item", "genres").width == 19
    assert loaded.attribute("item", "year").width == 1
    stats = loaded.side("item")[2]
    assert [f.buckets for f in stats.features] == [1, 1, 30, 30]
    assert stats.encoder.option("hidden", None) == (32,)
    assert (stats.dim, stats.late_after_ms, stats.expires_after_ms) == (32, 10_000, 0)


def test_canonical_text_gives_the_spec_back() -> None:
    """A bundle keeps a spec as its canonical text: parsed again it is the same spec, the order of its segments
    included."""
    for name in ("movielens", "nasty", "listless", "own"):
        again = parse_spec(json.loads(spec(name).canonical))
        assert again == spec(name)
        assert again.canonical == spec(name).canonical
        assert [s.title for s in again.segments] == [s.title for s in spec(name).segments]


def test_canonical_text_knows_no_layout() -> None:
    """Comments, blank lines and the two ways of writing a table are no part of a model."""
    spaced = "# a comment\n\n" + NASTY.replace("\ndim = 8", "\n\ndim   =   8 # wide enough")
    other = NASTY.replace(
        '[attributes.item]\ngenres = { set = ["war", "love", "crime"] }',
        '[attributes.item]\ngenres.set = ["war",\n   "love", "crime"]',
    )
    assert spaced != NASTY != other
    assert parse_spec(tomllib.loads(spaced)).canonical == spec("nasty").canonical
    assert parse_spec(tomllib.loads(other)).canonical == spec("nasty").canonical


def test_equal_features_share_one_block() -> None:
    """Both segments that read it are pending when it changes; a condition makes it another feature."""
    layout = Layout.of(spec("nasty"), "user")
    titles = [s.name for s in spec("nasty").side("user")]
    events = [
        b for b in layout.blocks if b.feature.kind == "count" and b.feature.key == "events" and not b.feature.over_ms
    ]
    assert len(events) == 1
    assert events[0].bits == 1 << titles.index("profile") | 1 << titles.index("recent")
    genres = [
        b for b in layout.blocks if b.feature.kind == "count" and b.feature.key == "genres" and not b.feature.over_ms
    ]
    assert len(genres) == 2 and {b.bits for b in genres} == {1 << titles.index("counts")}


@pytest.mark.parametrize(("text", "ms"), [("0s", 0), ("7ms", 7), ("30s", 30_000), ("2h", 7_200_000), ("1d", DAY_MS)])
def test_durations_have_units(text: str, ms: int) -> None:
    """ms, s, m, h and d."""
    assert duration_ms(text, "") == ms


@pytest.mark.parametrize("text", ["", "30", "30 s", "-1s", "1.5h", "1w", 30, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    """A number alone has no unit to guess."""
    with pytest.raises(SpecError, match="is not a duration") as caught:
        duration_ms(text, "[user.short] late_after")
    assert caught.value.where == "[user.short] late_after" and '"30s"' in caught.value.do


def _changed(path: str, value: object) -> dict[str, Any]:
    """The nasty spec with one value set; None takes it out."""
    data = tables("nasty")
    *way, last = path.split(".")
    table = data
    for name in way:
        table = table[name]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return data


def _feature(**table: object) -> list[dict[str, object]]:
    return [table]


BAD = [
    ("models", {}, "unknown key 'models'", "the file"),
    ("events", [], "where a table must stand", "[events]"),
    ("events.late", "1h", "unknown key 'late'", "[events]"),
    ("events.late_after", "30d", "late_after is the installation's", "[events]"),
    ("events.future_after", "soon", "future_after is the installation's", "[events]"),
    ("events.retire_users_after", "soon", "is not a duration", "[events] retire_users_after"),
    ("events.actions", "rate", "list of different strings", "[events] actions"),
    ("events.actions", ["a", "a"], "list of different strings", "[events] actions"),
    ("label", {}, "no positive condition", "[label]"),
    ("label.negative", "value < 1", "unknown key 'negative'", "[label]"),
    ("label.positive", "action == 'share'", "names the action 'share'", "[label] positive"),
    ("label.impression", "value >", "cannot be read", "[label] impression"),
    ("label.within", 30, "is not a duration", "[label] within"),
    ("label", {"positive": "value > 1", "within": "30m"}, "no impression that it counts from", "[label]"),
    ("label.join", "request_id", "join without within", "[label]"),
    ("label", {"positive": "value > 1", "impression": "value < 1", "within": "1h", "join": ["r"]}, "['r']",
     "[label] join"),
    ("label", {"positive": "value > 1", "impression": "value < 1", "within": "1h", "join": ""}, "''", "[label] join"),
    ("attributes.shop", {}, "unknown key 'shop'", "[attributes]"),
    ("attributes.item", 3, "where a table must stand", "[attributes.item]"),
    ("attributes.item.Size", {"number": True}, "the name 'Size'", "[attributes.item] Size"),
    ("attributes.item.value", {"number": True}, "called 'value'", "[attributes.item] value"),
    ("attributes.item.age", {"number": True}, "called 'age'", "[attributes.item] age"),
    ("attributes.item.size", 7, "where a table must stand", "[attributes.item] size"),
    ("attributes.item.size", {}, "has one kind", "[attributes.item] size"),
    ("attributes.item.size", {"number": False}, "has one kind", "[attributes.item] size"),
    ("attributes.item.size", {"number": True, "set": ["a"]}, "has one kind", "[attributes.item] size"),
    ("attributes.item.size", {"vector": 3}, "unknown key 'vector'", "[attributes.item] size"),
    ("attributes.item.size", {"category": "small"}, "list of different strings", "[attributes.item] size"),
    ("attributes.item.size", {"set": ["a", "a"]}, "list of different strings", "[attributes.item] size"),
    ("attributes.item.size", {"set": [str(n) for n in range(63)]}, "63 values", "[attributes.item] size"),
    ("attributes.item.size", {"category": {"buckets": 0}}, "0", "[attributes.item] size"),
    ("attributes.item.size", {"category": {"buckets": 4097}}, "4097", "[attributes.item] size"),
    ("attributes.item.size", {"category": {}}, "None", "[attributes.item] size"),
    ("attributes.item.size", {"category": {"bins": 4}}, "unknown key 'bins'", "[attributes.item] size"),
    ("attributes.item.size", {"set": {"buckets": 4}}, "list of different strings", "[attributes.item] size"),
    ("attributes.event", 3, "where a table must stand", "[attributes.event]"),
    ("attributes.event", {"Place": {"number": True}}, "the name 'Place'", "[attributes.event] Place"),
    ("attributes.event", {"user": {"number": True}}, "an event attribute called 'user'", "[attributes.event] user"),
    ("attributes.event", {"time": {"number": True}}, "an event attribute called 'time'", "[attributes.event] time"),
    ("attributes.event", {"price": {"number": True}}, "'price', as one of the item", "[attributes.event] price"),
    ("item", {}, "no segment for side item", "[item]"),
    ("user", None, "no segment for side user", "[user]"),
    ("user", ["taste"], "where a table must stand", "[user]"),
    ("user.short", "taste", "where a table must stand", "[user.short]"),
    ("user.Taste!", {}, "the name 'Taste!'", "[user.Taste!]"),
    ("user.short.dims", 8, "unknown key 'dims'", "[user.short]"),
    ("user.short.features", None, "no features", "[user.short]"),
    ("user.short.features", [], "no features", "[user.short]"),
    ("user.short.encoder", None, "no encoder", "[user.short]"),
    ("user.short.dim", None, "no dim", "[user.short]"),
    ("user.short.dim", 2000, "2000", "[user.short] dim"),
    ("user.short.dim", "8", "'8'", "[user.short] dim"),
    ("user.short.dim", True, "True", "[user.short] dim"),
    ("user.short.dim", 4, "user.short has 4 dimensions and meets no segment", "[fusion] retrieve"),
    ("user.short.late_after", 5, "is not a duration", "[user.short] late_after"),
    ("user.short.encoder", "mlp", "where a table must stand", "[user.short] encoder"),
    ("user.short.encoder", {"kind": "transformer"}, "unknown encoder 'transformer'", "[user.short] encoder"),
    ("user.short.encoder.layers", 2, "unknown key 'layers'", "[user.short] encoder"),
    ("user.short.encoder.hidden", [8], "[8]", "[user.short] encoder hidden"),
    ("user.short.encoder.hidden", 12, "hidden = 12", "[user.short] encoder"),
    ("user.short.encoder.dropout", 1.0, "dropout = 1.0", "[user.short] encoder"),
    ("user.counts.encoder.hidden", 8, "hidden = 8", "[user.counts] encoder"),
    ("user.counts.encoder.hidden", [0], "0", "[user.counts] encoder hidden"),
    ("user.counts.encoder.queries", 2, "unknown key 'queries'", "[user.counts] encoder"),
    ("user.counts.encoder", {"kind": "attention_pool"}, "0 `last` features", "[user.counts]"),
    ("user.short.encoder", {"kind": "mlp"}, "1 `last` features", "[user.short]"),
    ("user.short.features", [{"last": 2, "of": ["item"]}, {"last": 3, "of": ["item"]}], "2 `last` features",
     "[user.short]"),
    ("user.counts.features", "genres", "where a list of tables", "[user.counts]"),
    ("user.counts.features", ["genres"], "where a table must stand", "[user.counts] features"),
    ("user.counts.features", _feature(sum="value"), "names 0 folds", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", mean="value"), "names 2 folds", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", by="genres"), "unknown key 'by'", "[user.counts] features"),
    ("user.counts.features", _feature(count="shade"), "attribute 'shade' is not declared", "[user.counts] features"),
    ("user.counts.features", _feature(count=["genres"]), "a cross of ['genres']", "[user.counts] features"),
    ("user.counts.features", _feature(count=["genres", "genres"]), "list of different strings",
     "[user.counts] features"),
    ("user.counts.features", _feature(count=["genres", "events"]), "a cross of", "[user.counts] features"),
    ("user.counts.features", _feature(count=["genres", "action", "colour"]), "a cross of", "[user.counts] features"),
    ("user.counts.features", _feature(count=["genres", "price"]), "is a number and has no buckets",
     "[user.counts] features"),
    ("user.counts.features", _feature(count=["shade", "action"]), "'shade' is not declared", "[user.counts] features"),
    ("user.counts.features", _feature(mean="value", by=["genres"]), "a cross of", "[user.counts] features"),
    ("user.counts.features", _feature(count="genres", half_life="soon"), "not a duration", "[user.counts] features"),
    ("user.counts.features", _feature(count="genres", half_life="0d"), "half_life 0d", "[user.counts] features"),
    ("user.counts.features", _feature(count="genres", half_life="1d", over="7d"), "belong together",
     "[user.counts] features"),
    ("user.counts.features", _feature(latest=["born"], half_life="1d"), "unknown key 'half_life'",
     "[user.counts] features"),
    ("item.id.features", _feature(count=["genres", "action"]), "'genres' on side item", "[item.id] features"),
    ("user.counts.features", _feature(count="price"), "is a number and has no buckets", "[user.counts] features"),
    ("user.counts.features", _feature(mean="price"), "mean of 'price'", "[user.counts] features"),
    ("user.counts.features", _feature(mean="value", by="shade"), "'shade' is not declared", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", where="value"), "no comparison", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", where=4), "is not a text", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", over="1d"), "belong together", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", bucket="1d"), "belong together", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", bucket="1", over="1d"), "not a duration",
     "[user.counts] features"),
    ("user.counts.features", _feature(count="events", bucket="7h", over="1d"), "over 1d in", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", bucket="1h", over="0h"), "over 0h in", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", bucket="0s", over="1d"), "over 1d in", "[user.counts] features"),
    ("user.counts.features", _feature(count="events", bucket="1s", over="1d"), "over 1d in", "[user.counts] features"),
    ("user.counts.features", _feature(latest=["shade"]), "'shade' is not declared", "[user.counts] features"),
    ("user.counts.features", _feature(latest=["colour"]), "'colour' is not declared", "[user.counts] features"),
    ("user.counts.features", _feature(latest="born"), "list of different strings", "[user.counts] features"),
    ("user.counts.features", _feature(latest=[]), "latest of nothing", "[user.counts] features"),
    ("user.counts.features", _feature(id=8), "an id on side user", "[user.counts] features"),
    ("user.short.features", _feature(last=2), "'last': 2", "[user.short] features"),
    ("user.short.features", _feature(last=2, of=["shade"]), "shade", "[user.short] features"),
    ("user.short.features", _feature(last=0, of=["item"]), "0", "[user.short] features"),
    ("user.short.features", _feature(last="2", of=["item"]), "'2'", "[user.short] features"),
    ("item.id.features", _feature(last=2, of=["item"]), "'last': 2", "[item.id] features"),
    ("item.id.features", _feature(count="genres"), "'genres' on side item", "[item.id] features"),
    ("item.id.features", _feature(id=0), "0", "[item.id] features"),
    ("item.id.features", [{"id": 4}, {"id": 8}], "more than one id", "[item.id] features"),
    ("fusion", {"rerank": "weighted_sum"}, "unknown key 'rerank'", "[fusion]"),
    ("fusion", {"rank": "dot"}, "unknown fusion 'dot'", "[fusion] rank"),
    ("fusion", {"retrieve": "maxsim"}, "maxsim cannot be searched", "[fusion] retrieve"),
    ("fusion", {"rank": {"hidden": 8}}, "unknown fusion None", "[fusion] rank"),
    ("fusion", {"rank": {"kind": "affinity", "hidden": 0}}, "0", "[fusion] rank hidden"),
    ("fusion", {"rank": {"kind": "affinity", "layers": 2}}, "unknown key 'layers'", "[fusion] rank"),
    ("fusion", {"rank": {"kind": "attention", "heads": 3}}, "heads = 3", "[fusion] rank"),
    ("fusion", {"rank": {"kind": "concat_conv", "window": 2}}, "window = 2", "[fusion] rank"),
    ("fusion", {"rank": {"kind": "maxsim", "user": ["gone"]}}, "no segment user.gone", "[fusion] rank"),
    ("fusion", {"rank": {"kind": "maxsim", "item": []}}, "no segment of side item", "[fusion] rank"),
    ("fusion", {"rank": ["maxsim"]}, "where a table must stand", "[fusion] rank"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "what", "where"), BAD, ids=[f"{p}: {w}" for p, _, w, _ in BAD])
def test_what_cannot_be_a_model_is_refused(path: str, value: object, what: str, where: str) -> None:
    """One value of a good spec is changed: the refusal names what it is, the table it is in, and what to do."""
    with pytest.raises(SpecError) as caught:
        parse_spec(_changed(path, value))
    assert what in caught.value.what
    assert caught.value.where.startswith(where)
    assert caught.value.do
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["late_after", "future_after"])
def test_what_is_accepted_is_not_the_specs_to_say(name: str, tmp_path: Path) -> None:
    """An older file is sent to the settings, with the line that belongs there."""
    path = tmp_path / "segments.toml"
    path.write_text(NASTY.replace("[events]\n", f'[events]\n{name} = "2d"\n'))
    with pytest.raises(SpecError, match=f"{name} is the installation's") as caught:
        load_spec(path)
    assert caught.value.where == f"{path}, [events]"
    assert f'write {name} = "2d" into forebay.toml' in caught.value.do


def test_a_half_life_brings_its_window_unless_the_spec_gives_one() -> None:
    """Twenty buckets of a quarter; explicit ones stay; the shortest half-life still has whole buckets."""
    for given, bucket, over in (
        ({"half_life": "8h"}, 2 * HOUR_MS, 40 * HOUR_MS),
        ({"half_life": "8h", "bucket": "1h", "over": "24h"}, HOUR_MS, 24 * HOUR_MS),
        ({"half_life": "1ms"}, 1, 20),
    ):
        found = parse_spec(_changed("user.counts.features", _feature(count="genres", **given))).side("user")
        feature = next(s for s in found if s.name == "counts").features[0]
        assert (feature.bucket_ms, feature.over_ms) == (bucket, over)


def test_a_cross_wider_than_1024_pairs_is_refused() -> None:
    """4 genres with the unknown one: 255 colours and the unknown one make 1024 pairs, one more makes 1028."""
    data = tables("nasty")
    data["user"]["counts"]["features"] = [{"count": ["genres", "colour"]}]
    data["attributes"]["item"]["colour"]["category"] = [str(n) for n in range(255)]
    parse_spec(data)
    data["attributes"]["item"]["colour"]["category"].append("one more")
    with pytest.raises(SpecError, match="4 × 257 = 1028 pairs") as caught:
        parse_spec(data)
    assert "at most 1024" in caught.value.do


def test_a_feature_without_half_life_is_described_as_ever() -> None:
    """Tags of stored vectors are hashes over this text: a new field must not make every vector be encoded again."""
    assert repr(FeatureSpec("count", key="genres")) == (
        "FeatureSpec(kind='count', key='genres', of=(), size=0, where=None, bucket_ms=0, over_ms=0)"
    )
    assert "half_life_ms=5" in repr(FeatureSpec("count", half_life_ms=5))


def test_sixty_three_segments_do_not_fit_a_mask() -> None:
    """Their place is their bit in an int64."""
    data = tables("nasty")
    data["item"] = {f"s{n}": data["item"]["content"] for n in range(63)}
    with pytest.raises(SpecError, match="more than 62 segments") as caught:
        parse_spec(data)
    assert caught.value.where == "[item]" and caught.value.do
    del data["item"]["s0"]
    assert Layout.of(parse_spec(data), "item").segment_bits == (1 << 62) - 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the flag that names another."""
    with pytest.raises(SpecError, match="no such spec") as caught:
        load_spec(tmp_path / "none.toml")
    assert caught.value.where == str(tmp_path / "none.toml") and "--spec" in caught.value.do


@pytest.mark.parametrize("content", [b"[events\n", b"a = \xff", b"x = 1\nx = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """With what TOML has against it."""
    path = tmp_path / "segments.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match="not a TOML file") as caught:
        load_spec(path)
    assert caught.value.where == str(path) and caught.value.do


def test_an_error_in_a_file_names_the_file_and_the_table(tmp_path: Path) -> None:
    """`where` is what an editor needs."""
    path = tmp_path / "segments.toml"
    path.write_text(MOVIELENS.read_text().replace('kind = "attention_pool"', 'kind = "rnn"'))
    with pytest.raises(SpecError, match="unknown encoder 'rnn'") as caught:
        load_spec(path)
    assert caught.value.where == f"{path}, [user.recent] encoder"


@pytest.mark.parametrize(
    ("serving", "what"),
    [
        ({"filter": ["year"], "zzz": 1}, "unknown key 'zzz'"),
        ({"filter": ["colour"]}, "'colour' is no attribute of items"),
        ({"filter": ["shop"]}, "share buckets"),
        ({"filter": "year"}, "a list of different strings"),
        ({"filter": ["year"], "hide": "colour == 'x'"}, "names 'colour'"),
        ({"filter": ["year"], "hide": "genres"}, "names 'genres'"),
        ({"filter": ["year"], "hide": 3}, "is not a text"),
        ({"remember": 0}, "0"),
        ({"remember": 501}, "501"),
        ({"remember": True}, "True"),
    ],
)
def test_what_cannot_be_served_is_refused(serving: dict[str, Any], what: str) -> None:
    """With its place and a remedy."""
    data = tables("movielens")
    data["attributes"]["item"]["shop"] = {"category": {"buckets": 8}}
    with pytest.raises(SpecError) as caught:
        parse_spec({**data, "serving": serving})
    assert what in caught.value.what and "[serving]" in (caught.value.where or "") and caught.value.do


def test_a_spec_says_what_requests_may_ask_for() -> None:
    """And which state that is read from; nothing where it says nothing."""
    data = tables("movielens")
    found = parse_spec({**data, "serving": {"filter": ["year"], "hide": "not year", "remember": 7}})
    assert found.serving.filter == ("year",) and found.serving.hide is not None and found.serving.remember == 7
    assert found.served("item") == FeatureSpec("latest", of=("year",))
    assert found.served("user") == FeatureSpec("last", of=("item",), size=7)
    assert parse_spec(data).served("item") is None and parse_spec(data).served("user") is None
    boosted = {**data, "user": {**data["user"], "boost": data["user"]["profile"]}}
    with pytest.raises(SpecError, match="boost"):
        parse_spec({**boosted, "serving": {"filter": ["year"]}})
