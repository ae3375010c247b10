"""The terminal app: one main screen and one engine."""

import os

# Textual reads it when it is imported: what follows escape within so many ms is one key with it.
# Its 100 are longer than quick typing leaves between two keys; a terminal sends one key's bytes
# together.
os.environ.setdefault("ESCDELAY", "25")
