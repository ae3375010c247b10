"""The app's screens: the workbench, and what opens over it."""
