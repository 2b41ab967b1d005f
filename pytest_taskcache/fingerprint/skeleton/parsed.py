"""What is known of one source file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pytest_taskcache.fingerprint.mentions import Mentions


class Digests(NamedTuple):
    """Digests of one module: ``skeleton``; ``tree`` of all there is; ``names`` of the names it
    binds and its functions' interfaces; ``functions`` by qualified name, and their
    ``interfaces``: decorators, signature and docstring, which is all that those see who have a
    function but do not call it. ``whole`` is true where it could not be parsed and all digests
    are of its bytes."""

    skeleton: str
    tree: str
    names: str
    functions: Mapping[str, str]
    interfaces: Mapping[str, str]
    whole: bool = False


class Module(NamedTuple):
    """One parsed source file."""

    digests: Digests
    mentions: Mentions
