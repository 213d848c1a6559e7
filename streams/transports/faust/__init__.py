"""Kafka, carried by an app of faust-streaming: the membership and the fetching are those of its consumer."""
