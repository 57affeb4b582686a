"""Federations on one machine: the engine, the runs, their reports and benchmarks."""
