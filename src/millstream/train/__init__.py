"""Training: point-in-time features joined to examples and labels, models fitted on them, kept as versions and gated."""
