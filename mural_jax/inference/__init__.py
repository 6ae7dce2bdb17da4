"""Inference with an exported model, without its run and without TensorFlow."""
