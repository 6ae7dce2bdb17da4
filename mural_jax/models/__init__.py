"""Flax lives here and nowhere else: towers, heads, and the model that joins them."""
