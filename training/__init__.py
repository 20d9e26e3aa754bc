"""Turning a plain torch classifier into a supernet, training it, and writing its bundle."""
