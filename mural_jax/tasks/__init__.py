"""Tasks: a stream, views, an objective and a weight."""
