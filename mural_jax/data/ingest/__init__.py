"""Makes prepared data sets from readers of published data."""
