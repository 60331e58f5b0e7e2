"""Someone else's topic of Kafka as a source: its messages, how they are read, and what their bytes say."""
