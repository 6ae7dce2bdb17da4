"""Optax lives here: the step, the loop, the optimizers."""
