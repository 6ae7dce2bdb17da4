"""A config made real: checked, prepared, started, restored."""
