"""Classes of one's own in a spec: `module:Class`, imported where they run and nowhere else."""

from __future__ import annotations

import importlib
from typing import TypeVar

from forebay.errors import BundleError

T = TypeVar("T")


def own_class(name: str, base: type[T], where: str) -> type[T]:
    """The class `module:Class`, which must be a subclass of `base`. Raises BundleError.

    Whoever encodes (train, work, backfill) must be able to import it; a server reads stored vectors and needs no
    encoder of anyone.
    """
    module, _, attribute = name.partition(":")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a module may raise whatever it likes while it is imported
        raise BundleError(
            f"{name} cannot be imported: {error}", where=where, do=f"Install the package that has {module} in it"
        ) from None
    found = getattr(imported, attribute, None)
    if found is None:
        raise BundleError(f"module {module} has no {attribute}", where=where, do="Write it as module:Class")
    if not isinstance(found, type) or not issubclass(found, base):
        raise BundleError(f"{name} is no {base.__name__}", where=where, do=f"Derive it from {base.__module__}")
    return found
