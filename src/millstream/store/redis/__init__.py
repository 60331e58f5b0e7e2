"""The online store in a Redis or Valkey server, or a cluster of them: one hash per group version and shard."""
