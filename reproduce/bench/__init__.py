"""Benchmarks: the package against the usual way of writing the same training."""
