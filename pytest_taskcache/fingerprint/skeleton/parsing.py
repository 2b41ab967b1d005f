"""From the bytes of a source file to what it defines and mentions."""

from __future__ import annotations

import ast

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.fingerprint.skeleton.digesting import digests_of
from pytest_taskcache.fingerprint.skeleton.parsed import Module
from pytest_taskcache.fingerprint.skeleton.unparsed import unparsed_module
from pytest_taskcache.fingerprint.skeleton.walking import walk


def parse_module(source: bytes) -> Module:
    """What a source file defines and mentions.

    Source that cannot be parsed, or only by Python's own parser, is digested as bytes, and
    mentions every identifier in it.
    """
    try:
        found, text = walk(ast.parse(source))
        return Module(digests_of(found, text), found.mentions())
    except (SyntaxError, ValueError, RecursionError, MemoryError, UnicodeError):
        return unparsed_module(source, checksum_bytes(source))
