"""Source files that are not parsed: they count as a whole, and mention every word in them."""

from __future__ import annotations

import re

from pytest_taskcache.fingerprint.mentions import EVERYTHING, Import, Mentions, Uses
from pytest_taskcache.fingerprint.skeleton.parsed import Digests, Module

_IMPORT_LINES = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^#\n]*)"
    r"|import[ \t]+([\w., \t]+))",
    re.MULTILINE,
)


def unparsed_module(source: bytes, digest: str) -> Module:
    """A module of which only the digest of its content is known, and its text."""
    text = source.decode("utf-8", "replace")
    imports: dict[Import, None] = {}
    for dots, module, names, plain in _IMPORT_LINES.findall(text):
        for name in re.findall(r"[\w.]+", plain):
            imports[Import(0, name, "", name.partition(".")[0])] = None
        for name in re.findall(r"\w+|\*", names):
            imports[Import(len(dots), module, name, name)] = None
    uses = Uses(attributes=tuple(sorted(set(re.findall(r"[^\W\d]\w*", text)))))
    mentions = Mentions({EVERYTHING: uses}, imports=tuple(imports), opaque=True)
    return Module(Digests(digest, digest, digest, {}, {}, whole=True), mentions)
