"""Stars, rejections, labels, tags and notes, kept in SQLite."""
