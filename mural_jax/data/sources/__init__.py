"""Readers of published data: tables, archives, parallel text. Needs no TensorFlow."""
