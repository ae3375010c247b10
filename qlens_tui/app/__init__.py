"""The terminal app: one screen over one engine."""
