"""Settings, and the options of `[training]`: dataclasses whose comments say what each field is."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import MISSING, fields
from functools import cache
from types import ModuleType
from typing import Any

from forebay.config import PREFIX, Settings
from reference.markdown import code, plain, table
from reference.source import ROOT, comments


def settings() -> str:
    """Each setting, its variable, its default and its meaning."""
    said = comments(Settings)
    rows = [
        (code(f.name), code(f"{PREFIX}{f.name.upper()}"), _default(f), plain(said.get(f.name, "")))
        for f in fields(Settings)
    ]
    return table(("in forebay.toml", "variable", "default", "meaning"), rows)


def training() -> str:
    """The keys of `[training]`."""
    return _options(_training().TrainingOptions)


def training_retrieve() -> str:
    """The keys of `[training.retrieve]`."""
    return _options(_training().RetrieveOptions)


@cache
def _training() -> ModuleType:
    """segments/training/options.py by itself: its package imports torch, gigabytes that a page does not need."""
    spec = importlib.util.spec_from_file_location("training_options", ROOT / "segments/training/options.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _options(options: type[Any]) -> str:
    said = comments(options)
    rows = [(code(f.name), _default(f), plain(said.get(f.name, ""))) for f in fields(options)]
    return table(("key", "default", "meaning"), [row for row in rows if row[0] != code("retrieve")])


def _default(field: Any) -> str:
    if field.default in (None, MISSING):
        return ""
    if isinstance(field.default, bool):
        return code(str(field.default).lower())
    return code(
        f'"{field.default}"' if "int" not in str(field.type) and "float" not in str(field.type) else field.default
    )
