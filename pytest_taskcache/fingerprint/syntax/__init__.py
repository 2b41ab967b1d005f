"""Normalised text of syntax trees, and the names that the code in them mentions.

Two trees have the same text exactly when they differ in nothing but comments, blank lines,
formatting and positions. One walk yields both, since walking is what costs.
"""

from pytest_taskcache.fingerprint.syntax.expressions import FunctionNode, dotted
from pytest_taskcache.fingerprint.syntax.noted import Noted
from pytest_taskcache.fingerprint.syntax.writer import Writer

__all__ = ["FunctionNode", "Noted", "Writer", "dotted"]
