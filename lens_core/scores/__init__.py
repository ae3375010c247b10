"""Scores: how much of what a feature does its token lists say (docs/evidence.md)."""
