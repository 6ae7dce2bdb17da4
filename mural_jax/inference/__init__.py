"""A trained model without its run."""
