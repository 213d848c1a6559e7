"""Forebay: segment vectors of a recommender, ready before the request.

Public names are loaded when they are first used, so that `import forebay` costs nothing and a lookup client never
imports what only a worker needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AsyncClient": "forebay.retrieval.asyncclient",
    "Behaviour": "forebay.events",
    "Client": "forebay.retrieval.client",
    "Cluster": "forebay.streams.cluster",
    "Embedded": "forebay.embedded",
    "EventPublisher": "forebay.streams.publisher",
    "ForebayError": "forebay.errors",
    "ItemUpdate": "forebay.events",
    "RankRequest": "forebay.retrieval.messages",
    "Secret": "forebay.secret",
    "UserProfile": "forebay.events",
    "attach": "forebay.streams.host.attach",
}
__all__ = [
    "AsyncClient",
    "Behaviour",
    "Client",
    "Cluster",
    "Embedded",
    "EventPublisher",
    "ForebayError",
    "ItemUpdate",
    "RankRequest",
    "Secret",
    "UserProfile",
    "__version__",
    "attach",
]

if TYPE_CHECKING:
    from forebay.embedded import Embedded
    from forebay.errors import ForebayError
    from forebay.events import Behaviour, ItemUpdate, UserProfile
    from forebay.retrieval.asyncclient import AsyncClient
    from forebay.retrieval.client import Client
    from forebay.retrieval.messages import RankRequest
    from forebay.secret import Secret
    from forebay.streams.cluster import Cluster
    from forebay.streams.host.attach import attach
    from forebay.streams.publisher import EventPublisher


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
