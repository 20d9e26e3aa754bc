"""Anyone's torch classifier becomes a supernet: many widths and depths on one set of weights."""
