"""The front ends over `lens_core`: the `qlens` command and the terminal app."""

import os

# Threads of torch that wait for one another sleep instead of spinning. On a machine with other
# work to do, spinning makes every pass over the reference several times as slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
