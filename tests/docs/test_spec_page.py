"""The grammar's page is written by hand, and held against the reader of specs: what that one knows is asked of it by
its errors."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from dataclasses import fields
from typing import Any, get_args

import pytest

from forebay.errors import SpecError
from forebay.events import MAX_VALUE
from forebay.segments.encoders import ENCODERS
from forebay.segments.lint import lint
from forebay.segments.spec import EventRules, FeatureKind, FusionSpec, SegmentSpec, parse_spec
from forebay.segments.spec.featurefile import MAX_CROSS
from forebay.segments.spec.specfile import MAX_BUCKETS, MAX_SET_VALUES
from forebay.segments.spec.toml import duration_ms
from forebay.segments.training.twins import TWINS, Twin

PAGE = "spec.md"
NONE = {"never", "all time", "no decay", "every event", "every behaviour"}  # how the page says that nothing is set
FEATURES = {
    "last": {"last": 2, "of": ["item"]},
    "count": {"count": "events"},
    "mean": {"mean": "value"},
    "latest": {"latest": ["a"]},
    "id": {"id": 4},
}


def _tables(**given: Any) -> dict[str, Any]:
    """The tables of a small spec that can be, with `given` ones in place of its own."""
    plain = {"features": [{"count": "events"}], "encoder": {"kind": "mlp"}, "dim": 4}
    return {
        "label": {"positive": "value > 0"},
        "attributes": {"user": {"a": {"number": True}}, "item": {"a": {"number": True}}, "event": {}},
        "user": {"one": plain},
        "item": {"one": plain},
    } | given


def _said(data: dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as raised:
        parse_spec(data)
    return raised.value


def _known(data: dict[str, Any]) -> set[str]:
    """The names that the reader lists when it finds `zzz` where one of them must stand."""
    error = _said(data)
    assert "zzz" in error.what, error
    return {n.strip() for n in error.do.removeprefix("Known:").split(",") if n.strip() and "module:Class" not in n}


def _segment(side: str = "user", **given: Any) -> dict[str, Any]:
    segment = {"features": [{"count": "events"}], "encoder": {"kind": "mlp"}, "dim": 4} | given
    return _tables(**{side: {"one": segment}})


def _has(rows: dict[str, list[str]], names: set[str], heading: str) -> None:
    assert names <= set(rows), f"{PAGE}, {heading}: no row for {sorted(names - set(rows))}"
    assert set(rows) - {"key", "option", "kind", "---"} <= names, f"{PAGE}, {heading}: {set(rows) - names} is no more"
    for name in names:
        assert rows[name][2], f"{PAGE}, {heading}: nothing is said of {name}"


def _is_default(cell: str, value: Any, what: str) -> None:
    """`cell` of a default column says `value`; times in ms are said as durations, and 0 of them in words."""
    word = cell.strip("`")
    if isinstance(value, int) and re.fullmatch(r"\d+(ms|s|m|h|d)", word):
        assert duration_ms(word, what) == value, f"{PAGE}: {what} is {cell}, and {value} ms in the code"
    elif value in (0, None):
        assert word in NONE, f"{PAGE}: {what} is {cell}, and nothing in the code"
    else:
        said = json.dumps(list(value) if isinstance(value, tuple) else value)
        assert word == said, f"{PAGE}: {what} is {cell}, and {said} in the code"


def test_every_table_of_the_file_has_its_section(pages: Any) -> None:
    """Whatever may stand at the top of a spec."""
    headings = re.findall(r"^## (.*)$", pages(PAGE).text, re.MULTILINE)
    for name in _known(_tables(zzz={})):
        assert any(f"[{name}" in h for h in headings), f"{PAGE} has no section for [{name}]"


def test_every_key_of_events_is_there_with_its_default(pages: Any) -> None:
    """`[events]`, against EventRules."""
    rows = pages(PAGE).table("`[events]`")
    _has(rows, _known(_tables(events={"zzz": 1})), "[events]")
    for field in fields(EventRules):
        value = [] if field.default == () else field.default
        _is_default(rows[field.name.removesuffix("_ms")][1], value, f"[events] {field.name}")


def test_every_key_of_the_label_is_there(pages: Any) -> None:
    """`[label]`, and what is needed in it."""
    rows = pages(PAGE).table("`[label]`")
    _has(rows, _known(_tables(label={"zzz": 1})), "[label]")
    assert "positive" in _said(_tables(label={})).what and rows["positive"][1] == "needed"


def test_every_word_of_a_condition_is_there(pages: Any) -> None:
    """The fields that the page names can be compared in the ways that it names, and in no other."""
    rows = pages(PAGE).table("Conditions")
    values = {
        "action": "'go'",
        "value": "1",
        "an event's number": "1",
        "an event's category": "'x'",
        "an event's set": "'x'",
    }
    own = {"number": {"number": True}, "category": {"category": ["x"]}, "set": {"set": ["x"]}}
    assert set(values) == set(rows) - {"of", "---"}
    for row, value in values.items():
        name = row.rpartition(" ")[2]
        for sign in ("==", "!=", "<", "<=", ">", ">=", "in", "not in"):
            text = f"{name} {sign} {f'({value},)' if 'in' in sign else value}"
            if name == "set" and "in" in sign:
                text = f"{value} {sign} {name}"
            data = _tables(label={"positive": text}, events={"actions": ["go"]}, attributes={"event": own})
            if f"`{sign}`" in rows[row][1]:
                parse_spec(data)
            else:
                _said(data)
    assert MAX_VALUE == 1e6 and "up to a million" in rows["value"][2]


def test_every_kind_of_attribute_is_there(pages: Any) -> None:
    """category, set, number, and how many values a set may have."""
    rows = pages(PAGE).table("`[attributes.item]`, `[attributes.user]` and `[attributes.event]`")
    names = _known(_tables(attributes={"item": {"b": {"zzz": 1}}}))
    assert len(names) > 2
    _has(rows, names, "[attributes]")
    assert f"at most {MAX_SET_VALUES}" in rows["set"][2]
    for key in _known(_tables(attributes={"item": {"b": {"category": {"zzz": 1}}}})):
        assert key in rows["category"][2], f"{PAGE}: a category's {key} is not explained"
    assert f"1 to {MAX_BUCKETS} buckets" in rows["category"][2]
    headings = " ".join(re.findall(r"^## (.*)$", pages(PAGE).text, re.MULTILINE))
    for side in _known(_tables(attributes={"zzz": {}})):
        assert f"[attributes.{side}]" in headings, f"{PAGE} has no section for [attributes.{side}]"


def test_every_key_of_a_segment_is_there_with_its_default(pages: Any) -> None:
    """Against SegmentSpec, freshness bounds included."""
    rows = pages(PAGE).table("`[user.NAME]` and `[item.NAME]`")
    names = _known(_segment(zzz=1))
    _has(rows, names, "a segment")
    defaults = {f.name.removesuffix("_ms"): f.default for f in fields(SegmentSpec)}
    for name in names:
        if name in ("features", "encoder", "dim"):
            assert rows[name][1] == "needed" and name in _said(_segment(**{name: None})).what
        else:
            _is_default(rows[name][1], defaults[name], f"a segment's {name}")


def test_every_kind_of_feature_has_its_section(pages: Any) -> None:
    """As many as the reader names when it is given none of them."""
    named = _said(_segment(features=[{}])).do.partition(":")[2]
    kinds = {k.strip() for k in named.split(",")}
    assert kinds == set(FEATURES) == set(get_args(FeatureKind))
    sections = set(re.findall(r"^### `(\w+)`$", pages(PAGE).section("Features"), re.MULTILINE))
    assert sections == kinds, f"{PAGE}: sections for {sections}, kinds {kinds}"


@pytest.mark.parametrize("kind", FEATURES)
def test_every_key_of_a_feature_is_there_with_its_default(kind: str, pages: Any) -> None:
    """The keys by the reader's own list; a key that it does not need has a default, and one that it needs has none."""
    given = FEATURES[kind]
    heading = f"`{kind}`"
    rows = _feature_rows(pages, heading)
    side = "item" if kind == "id" else "user"
    encoder = {"kind": "bag" if kind == "last" else "mlp"}
    names = _known(_segment(side, features=[given | {"zzz": 1}], encoder=encoder))
    _has(rows, names, heading)
    parse_spec(_segment(side, features=[given], encoder=encoder))
    for name in names:
        if name in given:
            assert rows[name][1] == "needed", f"{PAGE}, {heading}: {name} is needed"
            rest = {k: v for k, v in given.items() if k != name}
            _said(_segment(side, features=[rest], encoder=encoder))
        else:
            assert rows[name][1] not in ("", "needed"), f"{PAGE}, {heading}: {name} has no default"


def _feature_rows(pages: Any, heading: str) -> dict[str, list[str]]:
    page = pages(PAGE)
    return type(page)(PAGE, page.section("Features")).table(heading)


def test_every_column_of_a_list_and_every_bound_is_there(pages: Any) -> None:
    """What `of` may name, and how many pairs a cross may have."""
    error = _said(_segment(features=[{"last": 2, "of": ["zzz"]}], encoder={"kind": "bag"}))
    columns = set(ast.literal_eval(error.do[error.do.index("[") :])) - {"a"}  # an attribute of this spec
    row = _feature_rows(pages, "`last`")["of"][2]
    for column in columns:
        assert f"`{column}`" in row, f"{PAGE}: `of` lacks {column}"
    assert f"at most {MAX_CROSS} pairs" in _feature_rows(pages, "`count`")["count"][2]


def test_every_kind_of_encoder_has_its_section(pages: Any) -> None:
    """As many as the reader lists, and as there are classes."""
    kinds = _known(_segment(encoder={"kind": "zzz"}))
    assert kinds == set(ENCODERS)
    sections = set(re.findall(r"^### `(\w+)`$", pages(PAGE).section("Encoders"), re.MULTILINE))
    assert sections == kinds, f"{PAGE}: sections for {sections}, kinds {kinds}"


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_option_of_an_encoder_is_there_with_its_default(kind: str, pages: Any) -> None:
    """The options by the reader's list, the defaults by what the encoder's code falls back on."""
    names = _known(_segment(encoder={"kind": kind, "zzz": 1})) - {"kind"}
    page = pages(PAGE)
    rows = type(page)(PAGE, page.section("Encoders")).table(f"`{kind}`")
    _has(rows, names, f"encoder {kind}")
    used = _defaults(ENCODERS[kind], SegmentSpec)
    for name in names:
        _is_default(rows[name][1], used[name], f"{name} of encoder {kind}")


def test_every_use_of_a_fusion_is_there_with_its_default(pages: Any) -> None:
    """`[fusion]`: both uses, and what they are when the spec has none."""
    rows = pages(PAGE).table("`[fusion]`")
    _has(rows, _known(_tables(fusion={"zzz": "weighted_sum"})), "[fusion]")
    for use, fusion in parse_spec(_tables()).fusions.items():
        assert rows[use][1] == f"`{fusion.kind}`"


def test_every_kind_of_fusion_has_its_section(pages: Any) -> None:
    """As many as the reader lists, and as there are twins."""
    kinds = _known(_tables(fusion={"rank": "zzz"}))
    assert kinds == set(TWINS)
    sections = set(re.findall(r"^### Fusion `(\w+)`$", pages(PAGE).text, re.MULTILINE))
    assert sections == kinds, f"{PAGE}: sections for {sections}, kinds {kinds}"


@pytest.mark.parametrize("kind", TWINS)
def test_every_option_of_a_fusion_is_there_with_its_default(kind: str, pages: Any) -> None:
    """The options by the reader's list, the defaults by what the fusion's twin falls back on."""
    names = _known(_tables(fusion={"rank": {"kind": kind, "zzz": 1}}))
    rows = pages(PAGE).table(f"Fusion `{kind}`")
    _has(rows, names, f"fusion {kind}")
    used = _defaults(TWINS[kind], Twin)
    for name in names:
        _is_default(rows[name][1], used[name], f"{name} of fusion {kind}")


def _defaults(cls: type, *more: type) -> dict[str, Any]:
    """What a class, its bases and `more` give to `option(name, default)`: every option that they read."""
    found: dict[str, Any] = {}
    for one in (*cls.__mro__, *more):
        if not one.__module__.startswith("forebay."):
            continue
        for node in ast.walk(ast.parse(inspect.cleandoc(f"\n{inspect.getsource(one)}"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "option":
                name, default = (ast.literal_eval(a) for a in node.args)
                assert found.setdefault(name, default) == default, f"two defaults of {name}"
    return found


def test_the_table_of_fusion_options_is_that_of_the_file(pages: Any) -> None:
    """A fusion's table has its kind, its options and the segments of both sides, and nothing else."""
    text = pages(PAGE).own("`[fusion]`")
    for name in ("kind", *(f.name for f in fields(FusionSpec) if f.name in ("user", "item"))):
        assert f"`{name}" in text


def test_the_spec_on_the_page_uses_what_is_explained(pages: Any) -> None:
    """The page's example can be read, has every table in it, and gives the linter nothing to say."""
    block = re.search(r"```toml\n(.*?)```", pages(PAGE).text, re.DOTALL)
    assert block is not None
    data = tomllib.loads(block[1])
    assert lint(parse_spec(data)) == []
    assert set(data) == _known(_tables(zzz={}))
