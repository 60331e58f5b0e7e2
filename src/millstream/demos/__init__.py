"""Demonstrations on real and simulated data."""
