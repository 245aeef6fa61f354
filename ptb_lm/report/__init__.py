"""Figures beside the paper's and beside each other: a run's end, tables, learning curves."""
