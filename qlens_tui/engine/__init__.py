"""The engine: `lens_core` in its own process, and the app's client for it."""
