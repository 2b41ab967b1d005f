"""Names that mean something where nothing binds them."""

from __future__ import annotations

import builtins

BUILTINS = frozenset(dir(builtins))

NAMESPACE_READERS = frozenset({"globals", "locals", "vars", "dir", "eval", "exec"})
"""Builtins that get at all names of a module."""
