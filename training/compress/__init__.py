"""Making a trained network smaller: one pass a file, stacked by a recipe."""
