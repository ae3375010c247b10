"""Scripts that print ratios and times of one machine, not timed tests: `make bench`."""
