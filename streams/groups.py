"""What a broker says of consumer groups: who is in one, and which ones have members."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from forebay.errors import BrokerUnavailable

ANSWER_S = 10.0
_WITH_MEMBERS = {
    ConsumerGroupState.STABLE,
    ConsumerGroupState.PREPARING_REBALANCING,
    ConsumerGroupState.COMPLETING_REBALANCING,
}


@dataclass(frozen=True)
class Member:
    """One consumer of a group: `client` is the name that it gave itself, `id` the broker's."""

    id: str
    client: str
    host: str


def members(bootstrap: str, group: str) -> list[Member]:
    """Who is in `group` now. Raises BrokerUnavailable within 20 s."""
    admin = _admin(bootstrap)  # held until the answer is there: a client that is collected answers nothing
    found = _answer(admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group], bootstrap)
    return [Member(m.member_id, m.client_id, m.host) for m in found.members]


def alive(bootstrap: str) -> set[str]:
    """The groups of the cluster that have members. Raises BrokerUnavailable within 20 s."""
    admin = _admin(bootstrap)
    found = _answer(admin.list_consumer_groups(request_timeout=ANSWER_S), bootstrap)
    return {g.group_id for g in found.valid if g.state in _WITH_MEMBERS}


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def _answer(future: Future[Any], bootstrap: str) -> Any:
    try:
        return future.result(2 * ANSWER_S)
    except (KafkaException, TimeoutError) as error:
        said = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        raise BrokerUnavailable(
            f"no answer about consumer groups: {said}", where=bootstrap, do="Run: forebay doctor"
        ) from None
