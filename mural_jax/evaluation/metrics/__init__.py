"""Ranks, recalls, correlations and their intervals, from arrays alone."""
