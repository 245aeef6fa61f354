"""Runs beside each other: what differs, by how much, and whether seeds alone explain it."""
