"""Stars, rejections, tags and notes, kept in SQLite."""
