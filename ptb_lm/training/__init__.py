"""The run: its state, the loop, the schedule, clipped SGD, checkpoints and the run folder."""
