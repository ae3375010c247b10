"""The front ends over `lens_core`: the `qlens` command and the terminal app."""

import os

# Threads of torch that wait for one another sleep after a short while. On a machine with other work
# to do, spinning for as long as by default makes a pass over the reference several times as slow
# (benchmarks/NOTES.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
