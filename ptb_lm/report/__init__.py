"""Figures beside the paper's: a run's end, tables, learning curves, and a page of them."""
