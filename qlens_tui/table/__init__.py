"""The feature table as data: frames, row order, filters. No terminal."""
