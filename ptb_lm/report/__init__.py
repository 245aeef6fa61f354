"""Figures beside the paper's: the end of a run, the table of results."""
