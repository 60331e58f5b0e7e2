"""The embedded online store: one LMDB environment per group version and shard."""
