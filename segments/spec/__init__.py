"""The language of a segments.toml: what a spec is, how its text is read, and its expressions. No state, no numpy but in
`truth`."""

from forebay.segments.spec.spec import (
    CROSS,
    SIDES,
    USES,
    EncoderSpec,
    EventRules,
    FeatureKind,
    FeatureSpec,
    FusionSpec,
    Holder,
    Label,
    SegmentSpec,
    Serving,
    Side,
    Spec,
    Use,
)
from forebay.segments.spec.specfile import load_spec, parse_spec

__all__ = [
    "CROSS",
    "SIDES",
    "USES",
    "EncoderSpec",
    "EventRules",
    "FeatureKind",
    "FeatureSpec",
    "FusionSpec",
    "Holder",
    "Label",
    "SegmentSpec",
    "Serving",
    "Side",
    "Spec",
    "Use",
    "load_spec",
    "parse_spec",
]
