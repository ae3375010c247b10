"""The whole dictionary of a layer as one table: computed, and kept as files."""
