"""Config files become nested dicts, and these become objects."""
