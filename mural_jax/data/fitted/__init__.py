"""What is fitted to the training data before a run: vocabularies, codebooks."""
