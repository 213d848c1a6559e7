"""Settings, and the options of `[training]`: dataclasses whose comments say what each field is."""

from __future__ import annotations

import json
from dataclasses import fields

from forebay.config import PREFIX, TABLES, Settings
from reference.markdown import code, plain, table
from reference.source import comments, defaults

OPTIONS = "segments/training/options.py"  # read and not imported: its package needs torch, which a page does not


def settings() -> str:
    """Each setting, its variable, its default and its meaning."""
    said = comments("src/forebay/config.py", "Settings")
    rows = [
        (
            code(f.name),
            "" if f.name in TABLES else code(f"{PREFIX}{f.name.upper()}"),  # tables do not fit into a variable
            "" if f.default in (None, ()) else code(json.dumps(f.default, default=str)),
            plain(said.get(f.name, "")),
        )
        for f in fields(Settings)
    ]
    return table(("in forebay.toml", "variable", "default", "meaning"), rows)


def training() -> str:
    """The keys of `[training]`."""
    return _options("TrainingOptions")


def training_retrieve() -> str:
    """The keys of `[training.retrieve]`."""
    return _options("RetrieveOptions")


def _options(name: str) -> str:
    said = comments(OPTIONS, name)
    rows = [(code(f), code(json.dumps(v)), plain(said.get(f, ""))) for f, v in defaults(OPTIONS, name).items()]
    return table(("key", "default", "meaning"), rows)
