"""Sparse dictionaries: the object, and the formats and places that it is read from."""
