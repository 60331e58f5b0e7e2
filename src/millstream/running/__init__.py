"""A project that runs: its layers as processes, their supervisor, and the simulated world of the example."""
