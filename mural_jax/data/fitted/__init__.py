"""What is fitted to the data before training: vocabularies and codebooks."""
