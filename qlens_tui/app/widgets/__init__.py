"""The app's widgets: they take attributes and plain data, and post messages."""
