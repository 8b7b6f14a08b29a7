"""Benchmarks: each prints a table and can write it as JSON."""
