"""Benchmarks: scripts that print ratios and times for one machine (`make bench`), not tests."""
