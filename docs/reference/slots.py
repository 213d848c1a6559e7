"""Places in the pages that the code fills: a line `{{ name }}`, or `{{ readme: A heading of the README }}`."""

from __future__ import annotations

import re
from collections.abc import Callable

from reference import commands, errors, events, lookups, metrics, readme, settings

SLOTS: dict[str, Callable[[], str]] = {
    "commands": commands.commands,
    "demo": readme.opening,
    "errors": errors.errors,
    "events": events.events,
    "hooks": metrics.hooks,
    "limits": events.limits,
    "admission": lookups.admission,
    "client_options": lookups.client_options,
    "connection_limits": lookups.limits,
    "lookups": lookups.structs,
    "prometheus": metrics.prometheus,
    "reasons": events.reasons,
    "remarks": errors.remarks,
    "settings": settings.settings,
    "training": settings.training,
    "training_retrieve": settings.training_retrieve,
}
_SLOT = re.compile(r"^\{\{ (\w+)(?:: (.+?))? \}\}$", re.MULTILINE)


def filled(page: str) -> str:
    """`page` with every slot filled. Raises KeyError for a name that there is not: the build ends there."""
    return _SLOT.sub(lambda m: readme.section(m[2]) if m[1] == "readme" else SLOTS[m[1]](), page)
