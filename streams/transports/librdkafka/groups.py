"""What a broker says of consumer groups: who is in one, and which ones have members."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forebay.errors import BrokerUnavailable
from forebay.streams.cluster import Address
from forebay.streams.connection import connected, kafka_python

ANSWER_MS = 5000
PATIENCE_S = 15.0
_WITH_MEMBERS = ("stable", "preparing-rebalance", "completing-rebalance")


@dataclass(frozen=True)
class Member:
    """One consumer of a group: `client` is the name that it gave itself, `id` the broker's."""

    id: str
    client: str
    host: str


def members(bootstrap: Address, group: str) -> list[Member]:
    """Who is in `group` now. Raises BrokerUnavailable within about 10 s."""
    return [Member(m["member_id"], m["client_id"], m["client_host"]) for m in _described(bootstrap, group)]


def assignments(bootstrap: Address, group: str) -> dict[str, list[tuple[str, int]]]:
    """The partitions (topic, number) of each member of `group` by its id, whose protocol is that of Kafka's own
    consumers. Raises BrokerUnavailable within about 10 s."""
    return {
        m["member_id"]: [
            (part["topic"], number)
            for part in (m["member_assignment"] or {}).get("assigned_partitions", ())
            for number in part["partitions"]
        ]
        for m in _described(bootstrap, group)
    }


def leave(bootstrap: Address, group: str, member: str, instance: str) -> None:
    """Take a static member out of `group`: its partitions go to the others at once. Nothing happens where the instance
    is another member's by now. Raises BrokerUnavailable."""
    from kafka.admin import MemberToRemove

    gone = MemberToRemove(member_id=member, group_instance_id=instance)
    _asked(bootstrap, lambda admin: admin.remove_group_members(group, [gone]))


def alive(bootstrap: Address) -> set[str]:
    """The groups of the cluster that have members. Raises BrokerUnavailable within about 20 s: a broker that has just
    started is given time to load what it knows of groups."""
    found = _asked(bootstrap, lambda admin: admin.list_groups(states_filter=_WITH_MEMBERS), PATIENCE_S)
    return {g["group_id"] for g in found}


def _described(bootstrap: Address, group: str) -> list[dict[str, Any]]:
    found = _asked(bootstrap, lambda admin: admin.describe_groups([group]))[group]
    if found["error"] and "GroupIdNotFound" not in found["error"]:  # its coordinator is still being loaded
        raise _silent(found["error"], bootstrap)
    return list(found["members"])


def _asked(bootstrap: Address, question: Callable[[Any], Any], patience_s: float = 0.0) -> Any:
    deadline = time.monotonic() + patience_s
    # kafka-python: librdkafka's admin client can abort the process when a broker answers after its time-out.
    with connected("KafkaAdminClient", bootstrap, request_timeout_ms=ANSWER_MS) as admin:
        while True:
            try:
                return question(admin)
            except kafka_python().errors.KafkaError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise _silent(str(error), bootstrap) from None
            time.sleep(0.2)


def _silent(said: str, bootstrap: Address) -> BrokerUnavailable:
    return BrokerUnavailable(f"no answer about consumer groups: {said}", where=str(bootstrap), do="Run: forebay doctor")
