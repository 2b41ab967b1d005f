"""What a computation is called, and the key its policy derives for it."""

from __future__ import annotations

from typing import NamedTuple

from pytest_taskcache.dataclass import dataclass

SCHEMA = 1
"""Version of keys, records and payloads; part of every key."""


class Identity(NamedTuple):
    """Where a computation is defined: file relative to the root, and qualified name."""

    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.file}::{self.name}"


class Part(NamedTuple):
    """One named component of a key, e.g. ``inputs.x`` or ``file data/rates.csv``.

    ``digest`` is hexadecimal text. Parts are kept beside the key so that a miss can say which
    of them changed.
    """

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Key:
    """The key of one computation.

    ``digest`` covers every part (32 hexadecimal digits) or is a name given outright. ``vouched``
    is true where the author vouches for validity: no trace is verified on a hit.
    """

    digest: str
    identity: Identity
    parts: tuple[Part, ...]
    vouched: bool = False
