"""From a stored example to arrays: images, regions, hidden places, texts."""
