"""Settings of streams, and the fields that an example of each kind has."""
