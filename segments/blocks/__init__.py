"""The clean log's records: accepted events as columns, many in one Kafka record."""
