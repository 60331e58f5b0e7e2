"""Ingestion, the second layer: from the buffer into the stores, exactly once, by the positions the stores keep."""
