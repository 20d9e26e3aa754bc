"""Benchmarks: each writes JSON under `results/`, beside its control in the same run."""
