"""How a text is cut into words: a helper, the one that the demo edits."""

from __future__ import annotations

import re


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[a-z]+", text.lower())
