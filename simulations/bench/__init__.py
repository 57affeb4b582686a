"""Benchmarks that a reader can run: make bench."""
