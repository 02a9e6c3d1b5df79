"""Measurements: each a module with a command line; results and commands are in docs/benchmarks.md."""
