"""The terminal app: one main screen and one engine."""

import os

# Textual reads it when it is imported. A person types the next key after escape in 60 ms or more,
# which its 100 would take for one key; the bytes of one key come together, also over SSH.
os.environ.setdefault("ESCDELAY", "25")
