"""What can be watched: the hooks of `forebay.telemetry`, and the names that Prometheus sees."""

from __future__ import annotations

import ast
import re

import forebay.telemetry
from reference.markdown import code, plain, table
from reference.source import calls, text

KINDS = (
    "Counter", "CounterMetricFamily", "Enum", "Gauge", "GaugeMetricFamily", "Histogram", "HistogramMetricFamily",
    "Info", "Summary",
)  # fmt: skip
_ROW = re.compile(r"^\| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)


def hooks() -> str:
    """The events of telemetry, from the table in its docstring."""
    rows = _ROW.findall(forebay.telemetry.__doc__ or "")[1:]
    return table(
        ("event", "said by", "details"), [(code(name), plain(by), plain(details)) for name, by, details in rows]
    )


def prometheus() -> str:
    """Every metric that the package registers: name, kind, labels, meaning."""
    rows = []
    for call in calls(*KINDS):
        assert isinstance(call.func, ast.Name)
        given = dict(zip(("name", "documentation", "labelnames"), call.args, strict=False))
        given |= {k.arg: k.value for k in call.keywords if k.arg}
        if "documentation" not in given:
            continue  # an Enum of Python's own
        labels = given.get("labelnames") or given.get("labels")
        names = ast.literal_eval(labels) if labels is not None else ()
        rows.append(
            (
                code(text(given["name"])),
                call.func.id.removesuffix("MetricFamily").lower(),
                ", ".join(map(code, names)),
                plain(text(given["documentation"])),
            )
        )
    return table(("name", "kind", "labels", "meaning"), sorted(rows))
