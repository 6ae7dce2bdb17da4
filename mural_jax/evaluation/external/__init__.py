"""Scores of models of other libraries, and of embeddings in files."""
