"""Figures from checkpoints: protocols, per-token score files, averages, sampled text."""
