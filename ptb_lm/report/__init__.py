"""Figures beside the paper's: the end of a run, tables, learning curves, the bench."""
