"""What a training step needs and how fast it may be, before and after somebody has the chips."""
