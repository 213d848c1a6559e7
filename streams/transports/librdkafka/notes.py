"""What the clean log is as of: asked of the Intake's group, whose offsets have notes."""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition

from forebay.streams.clients import asking_consumer
from forebay.streams.cluster import Address
from forebay.streams.intake.note import Note, as_of, note_of
from forebay.streams.topics import Topics

ANSWER_S = 2.0


class Notes:
    """Asks again and again. One thread at a time; every answer takes 2 s for each topic at most."""

    def __init__(self, bootstrap: Address, topics: Topics) -> None:
        self._topics = topics
        # Uncommitted: the newest committed notes at once, where a reader of committed offsets would wait for those of a
        # transaction under way.
        settings = asking_consumer(bootstrap, committed=False) | {"group.id": topics.intake_group}
        self._consumer = Consumer(settings)

    def as_of(self) -> int:
        """All that the sources took before this moment (ms) is in the clean log; 0 where the Intake has not read all of
        them yet. Raises KafkaException."""
        return as_of(place.metadata for place in self._committed())

    def read(self) -> dict[str, Note | None]:
        """The note of each source partition ("topic/partition"), None where there is none. Raises KafkaException."""
        return {f"{place.topic}/{place.partition}": note_of(place.metadata) for place in self._committed()}

    def close(self) -> None:
        """Ask no more."""
        self._consumer.close()

    def _committed(self) -> list[TopicPartition]:
        # The partitions as they are now: one that was added is not accepted from before an Intake has read it.
        places = [
            TopicPartition(topic, partition)
            for topic in self._topics.sources
            for partition in self._consumer.list_topics(topic, ANSWER_S).topics[topic].partitions
        ]
        found: list[TopicPartition] = self._consumer.committed(places, ANSWER_S)
        return found
