"""Deadlines met under load, against what one would use instead: `stretto bench contention`."""
