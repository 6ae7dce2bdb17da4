"""How two sides are compared: measures, tiles of them, and the ring."""
