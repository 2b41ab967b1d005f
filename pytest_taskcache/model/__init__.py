"""The values everything else speaks in: frozen, comparable, standard library only."""

__version__ = "0.1.0"
"""Of the package; here, so that no room needs the package's public names to tell it."""
