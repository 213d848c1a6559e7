"""The queries of the dashboard and of the alert rules, and what each of them asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "forebay.json"
# What a series has beside its own labels: whose it is, and the bound of a bucket.
GIVEN = frozenset({"job", "instance", "le"})
OF_PROMETHEUS = frozenset({"up"})


class Asked(NamedTuple):
    """One metric that a query selects, and the labels that the query goes by."""

    metric: str
    labels: frozenset[str]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    """All rules, alerts and recorded series."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    """The names of the recorded series."""
    return {rule["record"] for rule in rules() if "record" in rule}


def expressions() -> dict[str, str]:
    """Every query by the place where it stands, with Grafana's variables filled in."""
    found = {f"rule {rule.get('alert') or rule.get('record')}": rule["expr"] for rule in rules()}
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            found[f"panel {panel['title']!r}, {target['refId']}"] = _filled(target["expr"])
    for note in board["annotations"]["list"]:
        found[f"annotation {note['name']}"] = _filled(note["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            found[f"variable {variable['name']}"] = _filled(f"count by ({label}) ({selector})")
    return found


def asked(expression: str) -> list[Asked]:
    """The metrics of a query. An aggregation's labels are asked of each metric below it."""
    return list(_asked(promql.parse(expression), frozenset()))


def _filled(expression: str) -> str:
    filled = expression.replace("$__rate_interval", "1m").replace('"$job"', '".*"').replace('"$instance"', '".*"')
    assert "$" not in filled, filled
    return filled


def _asked(node: Any, labels: frozenset[str]) -> Iterator[Asked]:
    match node:
        case promql.VectorSelector():
            matched = frozenset(matcher.name for matcher in node.matchers.matchers)
            yield Asked(node.name, labels | matched)
        case promql.MatrixSelector():
            yield from _asked(node.vector_selector, labels)
        case promql.AggregateExpr():
            by = frozenset(node.modifier.labels) if node.modifier is not None else frozenset()
            yield from _asked(node.expr, labels | by)
        case promql.BinaryExpr():
            left, right = _sides(node.modifier, labels)
            yield from _asked(node.lhs, left)
            yield from _asked(node.rhs, right)
        case promql.Call():
            for argument in node.args:
                yield from _asked(argument, labels)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _asked(node.expr, labels)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"a query has a {type(node).__name__}")


def _sides(modifier: Any, labels: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What is asked of the two sides of an operator: `on` of both, and what group_left takes from the right of it
    alone."""
    if modifier is None or modifier.matching is None:
        return labels, labels
    on, taken = frozenset(modifier.matching.labels), frozenset(modifier.group_labels or ())
    match modifier.card:
        case promql.VectorMatchCardinality.ManyToOne:
            return labels - taken | on, on | taken
        case promql.VectorMatchCardinality.ManyToMany:
            return labels | on, on
        case _:
            return labels | on, labels | on
