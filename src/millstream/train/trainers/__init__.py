"""Trainers: what fits models, keeps them as text and scores with them; each library behind the same protocol."""
