"""Ordinary torch classifiers with nothing special in them, by name."""
