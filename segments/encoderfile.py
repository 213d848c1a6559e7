"""Reading `encoder = { … }` of a segments.toml."""

from __future__ import annotations

from typing import Any

from forebay.errors import SpecError
from forebay.segments.spec import EncoderSpec
from forebay.segments.tables import known, table, whole

_OPTIONS = {
    "mlp": ("dropout", "embedding", "hidden"),
    "attention_pool": ("dropout", "embedding", "hidden", "queries"),
}


def read_encoder(given: Any, where: str) -> EncoderSpec:
    """Raises SpecError that names the option."""
    kind = table(given, where).get("kind")
    if kind not in _OPTIONS:
        raise SpecError(f"unknown encoder {kind!r}", where=where, do='Use "mlp" or "attention_pool"')
    known(given, {"kind", *_OPTIONS[kind]}, where)
    options = {n: v for n, v in given.items() if n != "kind"}
    for name, value in options.items():
        if name == "dropout":
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise SpecError(f"dropout = {value!r}", where=where, do="Use a number from 0 to below 1")
        elif kind == "mlp" and name == "hidden":
            if not isinstance(value, list | tuple):
                raise SpecError(f"hidden = {value!r}", where=where, do="List the layers' widths: hidden = [64]")
            for width in value:
                whole(width, 1, 65_536, f"{where} hidden")
            options[name] = tuple(value)
        else:
            whole(value, 1, 65_536, f"{where} {name}")
            if kind == "attention_pool" and name == "hidden" and value % 8:
                raise SpecError(f"hidden = {value}", where=where, do="Use a multiple of 8: rows of other widths differ")
    return EncoderSpec(kind, tuple(sorted(options.items())))
