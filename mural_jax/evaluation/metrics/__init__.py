"""Ranks, recalls, correlations and their confidence intervals, from arrays alone."""
