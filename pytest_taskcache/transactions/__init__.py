"""Computations staged together, and committed or rolled back together."""
