"""Readers of what others publish: tables, archives, parallel text. No TensorFlow here."""
