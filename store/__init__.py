"""Where vectors live: RocksDB stores, the row codec, dense tables, the item index, generations. No Kafka, no torch.

One writer per directory and per table. What is written here is a cache of the log: a damaged store is deleted and
rebuilt, never repaired.
"""
