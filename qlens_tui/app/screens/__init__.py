"""The app's screens: the workbench, and the screens that open over it."""
