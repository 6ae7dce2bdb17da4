"""Models of other libraries, and embeddings in files."""
