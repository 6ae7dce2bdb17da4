"""Published weights: files of other libraries, and where their arrays go in our models."""
