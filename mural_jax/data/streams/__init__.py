"""Settings of streams, and the fields that each kind gives."""
