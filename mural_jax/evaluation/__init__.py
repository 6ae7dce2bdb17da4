"""Embedding, scores with their protocol, and the report."""
