"""Datasets: definitions, selection, splits, frozen versions, exports and their checks."""
