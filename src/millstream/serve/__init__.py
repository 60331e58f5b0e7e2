"""Layer 5, serving: scores and features by entity key, and the way in for events and labels."""
