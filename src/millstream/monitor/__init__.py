"""Layer 6, monitoring: what the pipeline uses, how fast it answers, and how what it serves is distributed."""
