"""The front ends over `lens_core`: the `qlens` command and the terminal app."""
