"""`lens_core` in a process of its own, and how the app talks to it."""
