"""A stream over prepared data: order, draws, decoding, repair."""
