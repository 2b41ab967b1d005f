"""Checksums of text: xxh3-128, in hexadecimal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xxhash import xxh3_128_hexdigest


def checksum(parts: Iterable[str]) -> str:
    """The digest of a sequence of texts: 32 hexadecimal digits.

    Each text is preceded by its length, so that two different sequences never read the same.
    Lone surrogates, which file names and literals may hold, are digested as they are.
    """
    joined = "".join([f"{len(part)}:{part}" for part in parts])
    return xxh3_128_hexdigest(joined.encode("utf-8", "surrogatepass"))


checksum_bytes: Callable[[bytes], str] = xxh3_128_hexdigest
"""The digest of bytes: 32 hexadecimal digits."""
