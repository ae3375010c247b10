"""What the app is built of: attributes and plain data down, messages up."""
