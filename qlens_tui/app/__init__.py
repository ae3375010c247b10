"""The terminal app: one main screen and one engine."""
