"""Benchmarks: scripts that print ratios and times for one machine (`make bench`), not tests."""

import qlens_tui  # noqa: F401 - torch's threads wait as they do in the command
