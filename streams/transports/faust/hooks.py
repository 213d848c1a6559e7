"""What the faust transport holds on to in faust, aiokafka and librdkafka that none of them promises to keep.

An installation with other versions is refused before anything is joined: a hook that is passed over in silence would
read uncommitted records, or commit offsets behind the protocol's back.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from forebay.errors import HookMissing, MissingExtra

# Distribution -> the versions, by their beginning, that the tests have run with.
KNOWN = {"faust-streaming": ("0.15.3",), "aiokafka": ("0.14.",)}
_DO = "Run: pip install 'forebay[faust]' (or --transport librdkafka, which needs none of it)"
# Who has it -> what is overridden or called there.
_HELD = {
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread": ("_create_consumer", "_ensure_consumer"),
    "faust.transport.drivers.aiokafka:Consumer": (
        "_new_consumer_thread", "commit", "_commit", "verify_all_partitions_active",
    ),
    "faust.transport.drivers.aiokafka": ("credentials_to_aiokafka_auth", "server_list", "Transport"),
    "aiokafka.consumer.group_coordinator:GroupCoordinator": ("check_errors", "request_rejoin"),
    "aiokafka.coordinator.assignors.abstract:AbstractPartitionAssignor": ("assign", "metadata", "on_assignment"),
}  # fmt: skip


def check() -> None:
    """Raise MissingExtra where faust is not installed, and HookMissing where a version, or a hook in it, is not
    known."""
    try:
        import faust  # noqa: F401
    except ImportError:
        raise MissingExtra("faust", "faust") from None
    for name, known in KNOWN.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            raise MissingExtra(name, "faust") from None
        if not found.startswith(known):
            raise HookMissing(f"{name} {found} is not a version that stages run in", where=_said(known), do=_DO)
    for where, names in _HELD.items():
        for name in names:
            if not hasattr(_held(where), name):
                raise HookMissing(f"there is no {name} to hold on to", where=where, do=_DO)
    _check_membership()


def held(thing: Any, *names: str) -> None:
    """Raise HookMissing where something that runs lacks one of `names`: a class does not tell of them."""
    for name in names:
        if not hasattr(thing, name):
            raise HookMissing(f"there is no {name} to hold on to", where=type(thing).__name__, do=_DO)


def _held(where: str) -> Any:
    from importlib import import_module

    module, _, name = where.partition(":")
    return getattr(import_module(module), name, None) if name else import_module(module)


def _check_membership() -> None:
    """librdkafka writes a group's metadata as bytes, and takes them back: the layout is its own."""
    from confluent_kafka import Consumer

    from forebay.streams.transports.faust.identity import Identity

    probe = Consumer({"group.id": "probe", "log_level": 0})
    try:
        written = probe.consumer_group_metadata()
    finally:
        probe.close()
    if written != Identity(0, -1, "").metadata("probe"):
        raise HookMissing("librdkafka writes a group's metadata in another way", where="confluent-kafka", do=_DO)


def _said(known: tuple[str, ...]) -> str:
    return "known: " + ", ".join(one + "*" * one.endswith(".") for one in known)
