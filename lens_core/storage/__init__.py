"""Storage on disk: files are complete or absent, found by content, never unpickled."""
