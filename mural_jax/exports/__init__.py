"""A trained model, given to the tools of others. Each export proves itself."""
