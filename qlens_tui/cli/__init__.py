"""The `qlens` command."""
