"""From a stored example to arrays: images, regions, masks, texts."""
