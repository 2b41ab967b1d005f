"""The canonical byte stream of a value: its term as a pickle of protocol 3 without memo.

Protocol 3 because the C pickler then shows its ``reducer_override`` the class of every set (newer
protocols write sets by themselves, in an order that differs between processes). ``fast`` because
without a memo the identity of objects leaves no trace; it is documented as deprecated, which is
why the walker can write the same stream. TERM is the one object in the memo, so it costs two bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any, Final

from xxhash import xxh3_128

from pytest_taskcache.digests.values.reducers import REDUCERS
from pytest_taskcache.digests.values.terms import TERM, Reduction, Scope, WalkerNeededError

MAX_OBJECTS: Final = 1 << 22
"""Values with more objects than this, shared ones counted each time, belong to the walker.

It bounds what shared structure can cost: 40 lists can stand for 2**40 objects, which the pickler
would visit one by one (65 ns each; so 0.27 s pass before the walker takes over).
"""

HEADER: Final = b"\x80\x03"
END: Final = b"."
TERM_CODE: Final = b"h\x00"
_MEMO: Final = {id(TERM): (0, TERM)}


class _Exhausted(Iterator[None]):
    def __next__(self) -> None:
        raise WalkerNeededError


_EXHAUSTED = _Exhausted()


class Sink:
    """What the pickler takes for a file."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class StreamPickler(pickle.Pickler):
    """Writes canonical streams. Raises what reducers raise, and RecursionError."""

    def __init__(self, sink: Sink, scope: Scope) -> None:
        super().__init__(sink, 3)
        self.fast = True
        self.memo = _MEMO
        self.scope = scope

    def reducer_override(self, value: Any) -> Reduction:
        """The reduction of every value that is not of a native type."""
        return REDUCERS[type(value)](value, self.scope)


def digest_stream(value: object, scope: Scope) -> str:
    """xxh3-128 of the value's stream, 32 hexadecimal digits.

    Raises whatever keeps the value from being written in one go; the walker knows the reason.
    """
    hasher = xxh3_128()
    pickler = StreamPickler(Sink(hasher.update), scope)
    # counts the objects in C: 36 ns each, and nothing to look up
    pickler.persistent_id = partial(next, chain(repeat(None, MAX_OBJECTS), _EXHAUSTED))  # type: ignore[method-assign]
    pickler.dump(value)
    return hasher.hexdigest()
