"""What carries a worker's records: Kafka by librdkafka, or a log in memory. One contract suite holds for both."""
