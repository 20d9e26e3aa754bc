"""Engines: how one step is run. A new engine is one file here and one line in `ENGINES`."""
