"""Exports of a trained model to the formats of other tools. Each export is checked when written."""
