"""What moves: the publisher, the topics, dead letters, and Kafka itself for development and tests.

Folder order is dependency order: this room imports `forebay.store`, `forebay.segments`, `forebay.events` and
`forebay.errors`, never `forebay.retrieval`. The publisher imports events, errors and topic names only.
"""
