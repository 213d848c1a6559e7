"""A Study as one HTML page: no script, no request to anywhere, readable on a phone and on paper.

The freshness curve stands first, since it is the reason to run this; then quality against request cost; then who gains,
the whole table, and what each change costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files

from forebay.segments.evaluation import plots
from forebay.segments.evaluation.results import METRICS, Figure, Figures, ModelResult, Section, Study

_COLOURS = {"forebay": 0, "early": 1}
_NONE = "–"


def page(study: Study) -> str:
    """The whole document."""
    css = (files("forebay.segments.evaluation") / "page.css").read_text(encoding="utf-8")
    models = {m.name: m for m in study.models}
    parts = [_head(study, models), _freshness(study), _pareto(study)]
    parts += [_section(s) for s in study.sections if s.key == "slices"]
    parts += [_calibration(study), _table(study)]
    parts += [_section(s) for s in study.sections if s.key != "slices"]
    parts.append(_about(study))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(study.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{css}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _head(study: Study, models: Mapping[str, ModelResult]) -> str:
    seeds = "one seed: no intervals" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds, intervals of 95 %"
    told = [_fresh_sentence(study), _early_sentence(study, models)]
    return (
        f"<header><h1>{escape(study.title)}</h1><p class='soft'>An evaluation by Forebay · {seeds}"
        f"{' · the quick form' if study.quick else ''} · {study.took_s / 60:.0f} min</p>"
        + "".join(f'<p class="lead">{t}</p>' for t in told if t)
        + "</header>"
    )


def _fresh_sentence(study: Study) -> str:
    fresh = next((s for s in study.staleness if s.lag_s == 0), None)
    nightly = next((s for s in study.staleness if s.lag_s is None), None)
    if fresh is None or nightly is None or "auc" not in fresh.figures or "auc" not in nightly.figures:
        return ""
    gain = fresh.figures["auc"].minus(nightly.figures["auc"])
    text = (
        f"User vectors of this moment score <b>{fresh.figures['auc'].mean:.4f}</b> AUC, last night's "
        f"<b>{nightly.figures['auc'].mean:.4f}</b>: freshness is worth <b>{gain.mean:+.4f}</b>{_margin(gain)}"
    )
    if "recall@50" in fresh.figures and nightly.figures.get("recall@50", Figure((0.0,))).mean > 0:
        ratio = fresh.figures["recall@50"].mean / nightly.figures["recall@50"].mean
        text += f" and {ratio:.2f} times the recall@50"
    return text + "."


def _early_sentence(study: Study, models: Mapping[str, ModelResult]) -> str:
    served = models.get(study.served)
    early = next((m for m in study.models if m.family == "early"), None)
    if served is None or early is None or served.ms_per_1000 is None or early.ms_per_1000 is None:
        return ""
    share = early.ms_per_1000.mean / served.ms_per_1000.mean
    told = []
    for key in ("auc", "gauc", "request_gauc"):
        if key in served.figures and key in early.figures:
            difference = served.figures[key].minus(early.figures[key])
            told.append(f"{difference.mean:+.4f}{_margin(difference)} {METRICS[key][0]}")
    return (
        f"Late fusion against the tuned early-interaction ranker: {', '.join(told)}, at <b>1/{share:.0f}</b> of its "
        f"request time ({served.ms_per_1000.mean:.2f} against {early.ms_per_1000.mean:.1f} ms for 1,000 candidates)."
    )


def _freshness(study: Study) -> str:
    if not study.staleness:
        return ""
    labels = [s.name for s in study.staleness]
    apart = next((i for i, s in enumerate(study.staleness) if s.lag_s is None), -1)
    figures = []
    for key in ("auc", "recall@50"):
        points = [_triple(s.figures.get(key)) for s in study.staleness]
        name = METRICS[key][0]
        svg = plots.lines(f"{name} by the age of user vectors", labels, [(name, points)], apart)
        figures.append(f"<figure>{svg}<figcaption>{name} when user vectors are this old</figcaption></figure>")
    rows = "".join(
        f"<tr><th scope='row'>{escape(s.name)}</th>"
        + "".join(f"<td>{_number(s.figures.get(k), k)}</td>" for k in _STALE)
        + "</tr>"
        for s in study.staleness
    )
    heads = "".join(f"<th scope='col'>{METRICS[k][0]}</th>" for k in _STALE)
    return (
        "<section><h2>What freshness is worth</h2><p>The same model and the same requests; only how late the user's "
        "events become visible changes. Nightly is the last midnight UTC.</p>"
        f"<div class='pair'>{''.join(figures)}</div><div class='scroll'><table><caption>By age of the user's "
        f"vectors</caption>"
        f"<thead><tr><th scope='col'>age</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


_STALE = ("auc", "known_auc", "request_gauc", "logloss", "recall@50", "ndcg@10", "without_history")


def _pareto(study: Study) -> str:
    figures = []
    for key in ("auc", "request_gauc"):
        ranked = [m for m in study.models if m.ms_per_1000 is not None and key in m.figures]
        points = []
        for m in ranked:
            assert m.ms_per_1000 is not None
            cost, quality = m.ms_per_1000.mean, m.figures[key].mean
            beaten = any(
                o.ms_per_1000 is not None and o.ms_per_1000.mean <= cost and o.figures[key].mean > quality
                for o in ranked
            )
            points.append((m.name, cost, quality, _COLOURS.get(m.family, 2), not beaten))
        name = METRICS[key][0]
        svg = plots.scatter(f"{name} against request time", "ms for 1,000 candidates", points)
        if svg:
            figures.append(f"<figure>{svg}<figcaption>{name}; up and left is better</figcaption></figure>")
    if not figures:
        return ""
    return (
        "<section><h2>Quality against request cost</h2><p>One thread, everything precomputed that can be: item halves "
        f"for late fusion, features for the early ranker.</p><div class='pair'>{''.join(figures)}</div></section>"
    )


def _calibration(study: Study) -> str:
    svg = plots.reliability("Calibration", [(b.predicted, b.observed, b.count) for b in study.calibration])
    if not svg:
        return ""
    return (
        f"<section><h2>Calibration of {escape(study.served)}</h2><div class='pair'><figure>{svg}</figure>"
        "<p class='soft'>Ten bins of equal size. Below the diagonal it promises too much.</p></div></section>"
    )


def _table(study: Study) -> str:
    keys = [k for k in METRICS if any(k in m.figures for m in study.models)]
    best = {k: _best(study, k) for k in keys}
    heads = "".join(f"<th scope='col'>{METRICS[k][0]}</th>" for k in keys)
    rows = []
    for m in study.models:
        cells = "".join(
            f"<td{' class=best' if m.name in best[k] else ''}>{_number(m.figures.get(k), k)}</td>" for k in keys
        )
        cost = _NONE if m.ms_per_1000 is None else f"{m.ms_per_1000.mean:.3f}"
        size = _NONE if not m.user_bytes else f"{m.user_bytes:,} / {m.item_bytes:,}"
        served = " class='served'" if m.name == study.served else ""
        note = f"<br><small class='soft'>{escape(m.note)}</small>" if m.note else ""
        rows.append(
            f"<tr{served}><th scope='row'>{escape(m.name)}{note}</th>{cells}<td>{cost}</td><td>{size}</td></tr>"
        )
    return (
        "<section><h2>All models</h2><div class='scroll'><table><caption>Test part; ● is the best of its column; ± is "
        "half of the "
        f"95 % interval over seeds</caption><thead><tr><th scope='col'>model</th>{heads}<th scope='col'>ms / 1,000</th>"
        f"<th scope='col'>bytes, user / item</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _best(study: Study, key: str) -> set[str]:
    found = {
        m.name: m.figures[key].mean for m in study.models if key in m.figures and math.isfinite(m.figures[key].mean)
    }
    if not found:
        return set()
    top = (max if METRICS[key][1] else min)(found.values())
    return {name for name, value in found.items() if value == top}


def _section(section: Section) -> str:
    keys = [k for k in METRICS if any(k in r.figures for r in section.rows)]
    extra = list(dict.fromkeys(name for r in section.rows for name in r.extra))
    heads = "".join(f"<th scope='col'>{escape(n)}</th>" for n in [*(METRICS[k][0] for k in keys), *extra])
    rows = "".join(
        f"<tr><th scope='row'>{escape(r.name)}</th>"
        + "".join(
            f"<td>{_number(r.figures.get(k), k)}{_difference(r.figures.get(k), section.against, k)}</td>" for k in keys
        )
        + "".join(f"<td>{escape(r.extra.get(n, _NONE))}</td>" for n in extra)
        + "</tr>"
        for r in section.rows
    )
    verdict = f"<p class='verdict'>{escape(section.verdict)}</p>" if section.verdict else ""
    return (
        f"<section><h2>{escape(section.title)}</h2><p>{escape(section.text)}</p><div class='scroll'><table>"
        f"<caption>{escape(section.title)}</caption><thead><tr><th "
        f"scope='col'></th>{heads}</tr></thead><tbody>{rows}</tbody>"
        f"</table></div>{verdict}</section>"
    )


def _about(study: Study) -> str:
    def items(given: Mapping[str, str]) -> str:
        return "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in given.items())

    return (
        f"<section><h2>Data and machine</h2><dl>{items(study.data)}{items(study.machine)}<dt>command</dt>"
        f"<dd><code>{escape(study.command)}</code></dd>"
        f"<dt>seeds</dt><dd>{', '.join(map(str, study.seeds))}</dd></dl></section>"
    )


def _number(figure: Figure | None, key: str) -> str:
    if figure is None or not math.isfinite(figure.mean):
        return _NONE
    if key == "without_history":
        return f"{figure.mean:.0%}"
    margin = f" <small>± {figure.margin:.4f}</small>" if figure.margin else ""
    return f"{figure.mean:.4f}{margin}"


def _difference(figure: Figure | None, against: Figures | None, key: str) -> str:
    if figure is None or against is None or key not in against:
        return ""
    change = figure.minus(against[key]).mean
    if not math.isfinite(change) or abs(change) < 5e-5:
        return " <small>±0</small>"
    kind = "good" if (change > 0) == METRICS[key][1] else "bad"
    return f" <small class='{kind}'>{change:+.4f}</small>"


def _margin(figure: Figure) -> str:
    return f" ± {figure.margin:.4f}" if figure.margin else ""


def _triple(figure: Figure | None) -> tuple[float, float, float]:
    return (math.nan,) * 3 if figure is None else (figure.mean, figure.low, figure.high)
