"""Data sets on disk: schema, records, index, filters."""
