"""Query Lens on sparse features: the method, usable from a notebook."""
