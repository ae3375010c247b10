"""Configurations that `qlens open NAME` finds by name; see README, "Configuration"."""
