"""The deliberate gap between computing and ingestion: a partitioned, durable log and what is written in it."""
