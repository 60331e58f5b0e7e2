"""Someone else's stream of Kinesis as a source: what its service says, how far a shard was read, and what is aggregated."""
