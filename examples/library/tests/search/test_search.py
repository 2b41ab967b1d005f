from pathlib import Path

import pytest
from search import find


@pytest.mark.parametrize(
    ("words", "module"),
    [
        ("gzip deflate crc32", "gzip.py"),
        ("quoted printable base64 header", "email/header.py"),
        ("extractall tarinfo", "tarfile.py"),
        ("heap queue", "heapq.py"),
    ],
)
def test_finds_the_module(index: Path, words: str, module: str) -> None:
    assert any(module in name for name in find(index, words, limit=40))


def test_finds_nothing_for_nonsense(index: Path) -> None:
    assert find(index, "xyzzyplugh") == []
