"""Fixtures of this room."""

from bodies import _nothing_ran, cache, closed, events, load, nothing_active, root

__all__ = ["_nothing_ran", "cache", "closed", "events", "load", "nothing_active", "root"]
