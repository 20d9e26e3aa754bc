"""stretto: one trained network, answered at any width and any depth, in time."""
