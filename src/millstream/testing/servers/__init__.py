"""Real servers for tests, demos and benchmarks: each a process of its own on the loopback, gone when its starter is."""
