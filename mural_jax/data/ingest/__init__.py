"""From readers of published data to prepared data sets."""
