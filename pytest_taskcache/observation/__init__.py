"""Sees what computations touch, and verifies what was seen."""
