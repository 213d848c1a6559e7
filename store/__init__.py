"""Where vectors live: RocksDB stores, the row codec, dense tables, the item index, generations. No Kafka, no torch.

One writer per directory and per table. A damaged store is replaced, never repaired: a serving node's is filled from the
vectors topics, a worker's from an earlier copy and the log after it.
"""
