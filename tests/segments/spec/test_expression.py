"""Conditions: what they mean, and that what cannot be meant is refused with a remedy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import SpecError
from forebay.segments.spec.attribute import AttributeSpec
from forebay.segments.spec.expression import Condition, action_code

ACTIONS = ("view", "like", "buy")
EVENTS = [(action, value) for action in (*ACTIONS, "unheard of") for value in (-1000, 0, 2499, 2500, 4000)]
COLUMNS = {
    "action": np.array([action_code(ACTIONS, a) for a, _ in EVENTS], dtype=np.int64),
    "value": np.array([v for _, v in EVENTS], dtype=np.int64),
}

NUMBERS = st.sampled_from(["-1", "0", "2.5", "4", "+4.0"])
NAMES = st.sampled_from(["'view'", "'like'", '"buy"'])
COMPARISONS = st.one_of(
    st.builds("value {} {}".format, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), NUMBERS),
    st.builds("action {} {}".format, st.sampled_from(["==", "!="]), NAMES),
    st.builds("action {} [{}]".format, st.sampled_from(["in", "not in"]), st.lists(NAMES).map(", ".join)),
    st.builds("value in ({},)".format, NUMBERS),
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {} or {})".format, inner, inner, inner),
        st.builds("not {}".format, inner),
    ),
    max_leaves=6,
)


OWN = (
    AttributeSpec("position", "number"),
    AttributeSpec("device", "category", ("phone", "desk")),
    AttributeSpec("tags", "set", ("new", "sale")),
    AttributeSpec("page", "category", buckets=8),
)
# Numbers in thousandths, doubled, and one; 0 where there is none.
OF_EVENTS = {
    "action": np.array([1, 1, 2, 0]),
    "value": np.zeros(4, dtype=np.int64),
    "position": np.array([2001, 4999, 0, -1999]),
    "device": np.array([1, 2, 0, 2]),
    "tags": np.array([0b010, 0b110, 0b001, 0b101]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("position <= 1", [1, 0, 0, 1]),
        ("position < 2.499", [1, 0, 0, 1]),
        ("not position > 1", [1, 0, 1, 1]),
        ("position == 2.499", [0, 1, 0, 0]),
        ("position != 1", [0, 1, 1, 1]),
        ("position in (1, -1.0)", [1, 0, 0, 1]),
        ("position not in (1, -1)", [0, 1, 1, 0]),
        ("device == 'phone'", [1, 0, 0, 0]),
        ("device != 'phone'", [0, 1, 1, 1]),
        ("device in ('phone', 'desk')", [1, 1, 0, 1]),
        ("device not in ('desk',)", [1, 0, 1, 0]),
        ("'sale' in tags", [0, 1, 0, 1]),
        ("'new' not in tags", [0, 0, 1, 1]),
        ("action == 'view' and ('sale' in tags or position < 2)", [1, 1, 0, 0]),
    ],
)
def test_a_condition_may_ask_event_attributes(text: str, expected: list[int]) -> None:
    """Of each kind; what is absent or unknown meets only `!=` and `not in`."""
    assert Condition(text, ACTIONS, "", OWN)(OF_EVENTS).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("seat == 4", "names 'seat'"),
        ("tags == 'new'", "compares the set tags"),
        ("page == '/cart'", "values share buckets"),
        ("device < 'phone'", "in a way that it does not have"),
        ("device == 'tv'", "'tv', which device does not list"),
        ("device == 4", "4, which device does not list"),
        ("'old' in tags", "'old', which tags does not list"),
        ("'new' in device", "no set of the event"),
        ("'new' in seats", "no set of the event"),
        ("position == '1'", "compares position with '1'"),
        ("position < 1e15", "compares position with"),
        ("position in 4", "`in` without a list"),
        ("position < value", "where a plain value must stand"),
    ],
)
def test_what_cannot_be_asked_of_an_attribute_is_refused(text: str, what: str) -> None:
    """With the place, and a remedy."""
    with pytest.raises(SpecError) as caught:
        Condition(text, ACTIONS, "[user.taste] features", OWN)
    assert what in caught.value.what and repr(text) in caught.value.what
    assert caught.value.where == "[user.taste] features" and caught.value.do


def test_a_condition_knows_only_the_attributes_that_it_names() -> None:
    """Another attribute that is declared makes it no other condition; its description is what it was before there were
    any."""
    assert Condition("value > 1", ACTIONS, "", OWN) == Condition("value > 1", ACTIONS)
    assert repr(Condition("value > 1", ("view",), "x", OWN)) == "Condition(text='value > 1', actions=('view',))"
    assert Condition("'new' in tags", ACTIONS, "", OWN).attributes == (OWN[2],)


@settings(max_examples=150, deadline=None)
@given(CONDITIONS)
def test_a_condition_means_what_python_means_by_it(text: str) -> None:
    """Compiled over columns it gives what the same words give over one event at a time."""
    expected = [bool(eval(text, {}, {"action": action, "value": value / 1000})) for action, value in EVENTS]
    assert Condition(text, ACTIONS)(COLUMNS).tolist() == expected


def test_value_is_compared_in_thousandths() -> None:
    """2.4994 is kept as 2.499, so it is no 2.5; 2.4996 is kept as 2.5."""
    kept = np.array([round(2.4994 * 1000), round(2.4996 * 1000)], dtype=np.int64)
    condition = Condition("value >= 2.5", ACTIONS)
    assert condition({"action": np.zeros(2, dtype=np.int64), "value": kept}).tolist() == [False, True]


def test_an_unknown_action_is_unequal_to_every_known_one() -> None:
    """It has the code 0, which no listed action has."""
    assert action_code(ACTIONS, "unheard of") == 0
    columns = {"action": np.zeros(1, dtype=np.int64), "value": np.zeros(1, dtype=np.int64)}
    assert Condition("action not in ('view', 'like', 'buy')", ACTIONS)(columns).tolist() == [True]


def test_equal_texts_are_equal_conditions() -> None:
    """Where a condition stands is for its errors only: equal features must share a block."""
    assert Condition("value > 1", ACTIONS, "here") == Condition("value > 1", ACTIONS, "there")
    assert Condition("value > 1", ACTIONS) != Condition("value > 2", ACTIONS)
    assert Condition("value > 1", ACTIONS) != Condition("value > 1", ("view",))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("value >=", "cannot be read"),
        ("", "cannot be read"),
        (4, "is not a text"),
        ("not " * 5000 + "value > 1", "nested too deeply"),
        ("value", "is no comparison"),
        ("value + 1 > 2", "is no comparison"),
        ("1 < value", "is no comparison"),
        ("0 < value < 4", "is no comparison"),
        ("__import__('os').system('true')", "is no comparison"),
        ("user == 'u'", "names 'user'"),
        ("value in 4", "`in` without a list"),
        ("action < 'view'", "in a way that it does not have"),
        ("value is 4", "in a way that it does not have"),
        ("value > value", "where a plain value must stand"),
        ("value in (1, *[2])", "where a plain value must stand"),
        ("value > 'four'", "compares value with 'four'"),
        ("value > True", "compares value with True"),
        ("value < 1e400", "past any"),
        ("value in (1e30,)", "past any"),
        ("action == 4", "compares action with 4"),
    ],
    ids=lambda text: str(text)[:24],
)
def test_what_is_no_condition_is_refused(text: str, what: str) -> None:
    """Each refusal quotes the condition, says what is wrong with it and where, and what would be right."""
    with pytest.raises(SpecError) as caught:
        Condition(text, ACTIONS, "[user.taste] features")
    assert what in caught.value.what
    assert repr(text) in caught.value.what
    assert caught.value.where == "[user.taste] features"
    assert caught.value.do.startswith("Use and/or/not")


def test_an_action_that_is_not_listed_is_refused() -> None:
    """It would be equal to every other unknown action."""
    with pytest.raises(SpecError, match="'share', which") as caught:
        Condition("action == 'share'", ACTIONS, "[label]")
    assert "Add it to actions" in caught.value.do and caught.value.where == "[label]"
