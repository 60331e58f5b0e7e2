"""Layer 3: the online and offline stores, the registry of definitions, and the history both are read from."""
