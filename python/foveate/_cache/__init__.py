"""A cache of keys and values in pages, for generation."""
