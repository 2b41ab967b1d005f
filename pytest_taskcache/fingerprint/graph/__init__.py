"""Which functions can be reached by name from which.

An over-approximation: ``x.parse`` reaches every method ``parse`` of every class unless ``x`` is
known to be a module. Names that every container and string has (``get``, ``items``, ...) and
dunder methods are reached through their class instead, once the class itself is.
"""

from pytest_taskcache.fingerprint.graph.asking import NameGraph, Reached

__all__ = ["NameGraph", "Reached"]
