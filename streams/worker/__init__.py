"""A worker: it owns partitions of a source topic, folds their events, and puts changed vectors into the log."""
