"""The digest of a value: equal content, equal digest, in every process on every machine; and that
of a function as the code of a task, which TASK_SOURCE puts into a key.

* Types are kept apart: ``1``, ``True``, ``1.0``, ``"1"``, ``b"1"``, ``[1]``, ``(1,)``, an IntEnum
  and a numpy scalar all differ, and so do ``0.0`` and ``-0.0``. NaN equals itself, bit by bit.
* The order of dict entries and of attributes counts, since a function can return it; the order
  of set elements does not.
* Which object it is does not count: ``[a, a]`` and ``[a, copy of a]`` are equal.
* Classes and modules of the project count by what they say, and by their constants.
* Iterators, open files, connections, locks, threads and mocks are refused, untouched.

Reasons: docs/decisions/0001-value-digest.md, 0017-values-that-hold-code.md.
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import is_
from types import CodeType, FunctionType
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from xxhash import xxh3_128_hexdigest

from pytest_taskcache.checksum import checksum
from pytest_taskcache.digests.values.terms import Anchors, Apart, Scope, qualified_name
from pytest_taskcache.errors import UndigestableError

_SCALARS: Final = frozenset({type(None), bool, int, float})
_TEXTS: Final = frozenset({str, bytes})
_SHORT: Final = 1 << 16
_FORMAT: Final = 2
"""Of marshal: the last without references, so that interning leaves no trace."""

_SHARED_LIMIT: Final = sys.hexversion < 0x030C0000
_SAFE_LIMIT: Final = 10_000
"""Before 3.12 ``sys.setrecursionlimit`` bounds the C pickler, too: with a large one it overruns
the C stack (seen at 100,000 levels) and the interpreter dies."""


def digest_value(
    value: object, *, path: str = "", anchors: Anchors | None = None, apart: Apart | None = None
) -> str:
    """The xxh3-128 digest of a value's types and content, 32 hexadecimal digits.

    ``path`` is the name the value goes by in errors. ``anchors`` gives absolute paths the name
    they are digested by; without it they count by their text. ``apart`` keeps what parts were
    found to be from one call to the next, between which nobody may change them.

    Raises UndigestableError, which names the type and where in the value it sits.
    """
    kind = type(value)
    # 0.2 µs instead of 1.8: no pickler of our own for what holds nothing
    if kind in _SCALARS or (kind in _TEXTS and len(value) < _SHORT):  # type: ignore[arg-type]
        return xxh3_128_hexdigest(marshal.dumps(value, _FORMAT))  # type: ignore[arg-type]
    # a run whose inputs are numbers and names does without the reducers' modules
    from pytest_taskcache.digests.values.reducers import digest_stream

    scope = Scope(anchors, apart)
    try:
        if _SHARED_LIMIT and sys.getrecursionlimit() > _SAFE_LIMIT:
            scope.need_walker()
        digest = digest_stream(value, scope)
    except MemoryError:
        raise
    except Exception:
        # whatever went wrong, the walker digests the value or says what is the matter and where
        from pytest_taskcache.digests.values.walker import Exploration, walk

        scope = exploration = Exploration(anchors, apart)
        digest = walk(value, path, exploration)
    if scope.classes:
        classes = sorted(scope.classes, key=qualified_name)
        return checksum([digest, *[part for cls in classes for part in _definitions(cls)]])
    return digest


_defined: dict[type, tuple[tuple[object, ...], str]] = {}
"""The digest of an importable class's definition, and the namespace it was read from: 1 µs
instead of 15, which each call with such an instance would pay."""


def _definitions(cls: type) -> Iterator[str]:
    """The digests of what a class is to its instances, and what it inherits from."""
    for base in cls.__mro__:
        namespace = vars(base)
        known = _defined.get(base)
        if (
            known is None
            or len(known[0]) != 2 * len(namespace)
            or not all(map(is_, known[0], chain(namespace, namespace.values())))
        ):
            from pytest_taskcache.digests.values.callables import class_definition

            kept = (*namespace, *namespace.values())
            known = _defined[base] = kept, digest_value(class_definition(base))
        yield known[1]


def digest_arguments(
    arguments: Mapping[str, object], *, anchors: Anchors | None = None
) -> dict[str, str]:
    """The digest of each argument by name, in the order given. Raises UndigestableError for the
    first that has none; its path starts with the name."""
    digests = {}
    for name, value in arguments.items():
        kind = type(value)
        # as in digest_value, whose call would cost as much again: this is part of every hit
        if kind in _SCALARS or (kind in _TEXTS and len(value) < _SHORT):  # type: ignore[arg-type]
            digests[name] = xxh3_128_hexdigest(marshal.dumps(value, _FORMAT))  # type: ignore[arg-type]
        else:
            digests[name] = digest_value(value, path=name, anchors=anchors)
    return digests


def changed_argument(
    arguments: Mapping[str, object], before: Mapping[str, str], *, anchors: Anchors | None = None
) -> str:
    """The name of the first argument that is no longer what ``before`` says (see
    ``digest_arguments``), for what a function changed in place is lost on a hit; "" if all are.
    Never raises: an argument that can no longer be digested has changed. Those without a digest
    are left out."""
    for name, value in arguments.items():
        digest = before.get(name)
        if digest is None or type(value) in _SCALARS or type(value) in _TEXTS:
            continue
        try:
            if digest != digest_value(value, path=name, anchors=anchors):
                return name
        except UndigestableError:
            return name
    return ""


_Settled: TypeAlias = tuple[CodeType, tuple[Any, ...] | None, str]
_settled: WeakKeyDictionary[FunctionType, _Settled] = WeakKeyDictionary()
"""Digests of functions that cannot change: 0.7 µs instead of 7 on each warm hit."""


def digest_function(function: Callable[..., object]) -> str:
    """The digest of a function's source, closure values and default values.

    For a method also of its class and the bases from the project, by source; the class is found
    by the qualified name, so a local class counts by what the closure holds of it. Cells that
    are still empty are left out, and functions may refer to themselves. Other callables count
    by value and by the source of their class.

    Raises UndigestableError where a closure or default value has no digest; its path starts with
    the function's name.
    """
    settled = _settled.get(function) if type(function) is FunctionType else None
    if settled is not None:
        code, defaults, digest = settled
        if code is function.__code__ and defaults is function.__defaults__:
            return digest
    from pytest_taskcache.code.function_source import owner_of
    from pytest_taskcache.digests.values.callables import TaskCode

    owner = owner_of(function)
    name = getattr(function, "__name__", type(function).__name__)
    digest = digest_value(TaskCode(function, owner), path=name)
    if type(function) is FunctionType and _is_settled(function, owner):
        _settled[function] = (function.__code__, function.__defaults__, digest)
    return digest


def _is_settled(function: FunctionType, owner: type | None) -> bool:
    """Whether nothing that the digest covers can change while the function exists."""
    if function.__closure__ or function.__kwdefaults__:
        return False
    around = function.__qualname__.rpartition(".")[0]
    if owner is None and around and not around.endswith("<locals>"):
        # its class may not exist yet
        return False
    kinds = set(map(type, function.__defaults__ or ()))
    return kinds <= _SCALARS | _TEXTS
