"""A worker: it owns partitions of what a stage reads, applies their records, and puts what they become into the log."""
