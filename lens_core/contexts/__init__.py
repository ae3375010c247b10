"""Contexts from a corpus: text, longer than the reference, in which features are looked for."""
