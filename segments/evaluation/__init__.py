"""How good a bundle is, measured as it is served: metrics, replays at a staleness, the report. No Kafka, no store."""
