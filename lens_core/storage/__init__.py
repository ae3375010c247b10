"""What is kept on disk: whole files or none, found by content, never unpickled."""
