"""Sparse dictionaries: the class, and the formats and sources it is read from."""
