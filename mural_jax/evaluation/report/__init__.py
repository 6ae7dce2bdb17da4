"""The page about a run, or several compared."""
