"""Layer 3: the registry of definitions and versions, what a new definition would change, and what commands have begun."""
