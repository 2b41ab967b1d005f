"""What a code object reads and changes by name, as its instructions tell: for code of which no
definition is at hand, and for what its text does not show.

    def rate(): return lib.RATE * SCALE      reads SCALE, lib and, of lib, RATE
    def add(row): lib.ROWS.append(row)       changes ROWS in place
"""

from __future__ import annotations

import dis
import re
import sys
from collections import deque
from collections.abc import Iterator
from functools import cache
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import CodeType
from typing import NamedTuple

_MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__setstate__", "__set_name__"})
"""Methods that set attributes of an object nobody else knows yet."""

_MUTATORS = frozenset(
    name
    for kind in (dict, list, set, bytearray, deque)
    for name in vars(kind).keys() - {*dir(tuple), *dir(frozenset), *dir(bytes), *dir(range)}
    if name not in ("get", "items", "keys", "values", "fromkeys", "maxlen")
)
"""Names by which code changes an object in place."""

_BY_TEXT = frozenset(
    {"getattr", "globals", "vars", "__dict__", "attrgetter", "methodcaller", "eval", "exec"}
)
"""Names by which code gets at what a text names."""

_SETTERS = frozenset({"setattr", "delattr", "__setattr__", "__delattr__"})
"""Names by which it sets that."""

_words = re.compile(r"\w+").findall

_LOAD = dis.opmap["LOAD_GLOBAL"]
_FROM = dis.opmap["IMPORT_FROM"]
_GET = {dis.opmap["LOAD_ATTR"]: 0 if sys.version_info < (3, 12) else 1}
if "LOAD_METHOD" in dis.opmap and sys.version_info < (3, 12):
    _GET[dis.opmap["LOAD_METHOD"]] = 0
_NAMES = frozenset({dis.opmap["LOAD_NAME"], dis.opmap.get("LOAD_FROM_DICT_OR_GLOBALS", -1)})
_SETS = {
    dis.opmap[name]: below
    for name, below in {
        "STORE_GLOBAL": 0,
        "DELETE_GLOBAL": 0,
        "STORE_ATTR": 1,
        "DELETE_ATTR": 1,
        "STORE_SUBSCR": 2,
        "DELETE_SUBSCR": 2,
        "STORE_SLICE": 3,
    }.items()
    if name in dis.opmap
}
"""Operations that change what a name or an attribute holds, or something in it, and how far down
the stack that lies which it is changed in."""

_ENDS = frozenset(
    code
    for name, code in dis.opmap.items()
    if name.startswith(("RETURN", "RAISE", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD"))
)
"""Operations after which the next one has another stack."""


class _Origin(NamedTuple):
    """Where a value on the stack is had from."""

    name: str
    is_global: bool


_ELSEWHERE = _Origin("", False)
_ARGUMENT = _Origin("", False)
"""Stands for what the caller gave."""
_KEEPS = frozenset({"STORE_FAST", "POP_TOP", "NOP", "RESUME", "PRECALL"})
"""Operations that give nothing in place of what they take."""


class Use(NamedTuple):
    """What one code object reads by name, attributes with the global they are asked of, and the
    names of the globals, and of the attributes, that it sets, or changes in place. ``given`` are
    those of them that it sets to what its caller says, as far as that shows."""

    attributes: frozenset[tuple[str, str]]
    globals: frozenset[str]
    imported: frozenset[str]
    sets: frozenset[str]
    alters: frozenset[str]
    given: frozenset[str]

    def mentions(self) -> Iterator[str]:
        """All names that it reads."""
        yield from self.globals
        yield from (name for _, name in self.attributes)
        yield from self.imported


@cache
def use_of(code: CodeType) -> Use:
    """What its own instructions tell, those of code nested in it left out."""
    read: set[str] = set()
    attributes: set[tuple[str, str]] = set()
    imported: set[str] = set()
    names = code.co_names
    changes = not _MUTATORS.isdisjoint(names)
    texts = [] if (_BY_TEXT | _SETTERS).isdisjoint(names) else _texts(code)
    if not _BY_TEXT.isdisjoint(names):
        imported.update(texts)
    base = ""
    for operation, argument in _operations(code):
        if operation == _LOAD or operation in _NAMES:
            base = names[argument >> 1 if operation == _LOAD else argument]
            read.add(base)
        elif operation in _GET:
            attributes.add((base, names[argument >> _GET[operation]]))
            base = ""
        elif operation != dis.EXTENDED_ARG:
            base = ""
            if operation == _FROM:
                imported.add(names[argument])
            changes = changes or operation in _SETS
    found = _Changes(code, followed=changes)
    sets, alters = found.sets, found.alters
    if not _SETTERS.isdisjoint(names):
        sets.update(texts)
        alters.update(texts)
        found.given.update(texts)
    if found.arguments:
        found.given |= found.rebound - read - imported - {name for _, name in attributes}
    names_of = [frozenset(each) for each in (read, imported, sets, alters, found.given)]
    return Use(frozenset(attributes), *names_of)


def may_set(code: CodeType) -> list[str]:
    """Names among which are all that it sets, had without following its instructions."""
    by_text = not _SETTERS.isdisjoint(code.co_names)
    if (
        not by_text
        and _MUTATORS.isdisjoint(code.co_names)
        and _SETS.keys().isdisjoint(code.co_code[::2])
    ):
        return []
    return [*code.co_names, *(_texts(code) if by_text else ())]


def _texts(code: CodeType) -> list[str]:
    return [each for text in code.co_consts if type(text) is str for each in _words(text)]


def _operations(code: CodeType) -> Iterator[tuple[int, int]]:
    extended = 0
    text = code.co_code
    for place in range(0, len(text), 2):
        if text[place]:  # no inline cache
            argument = text[place + 1] | extended
            extended = argument << 8 if text[place] == dis.EXTENDED_ARG else 0
            yield text[place], argument


class _Changes:
    """The names of the globals, and of all attributes, that code sets or changes in place.

        lib.ROWS[key] = 1            ROWS, a global or one's attribute
        rows = lib.ROWS; rows.sort() ROWS as well
        self.rows.append(1)          rows, an attribute
        out = []; out.append(RATE)   nothing that others know

    What is on the stack is followed in the order of the text: its last name, and whether it is
    had from a global. What is had otherwise, by a call or from an argument, counts for nothing: to
    take too little for a function's own memory costs a miss.
    """

    def __init__(self, code: CodeType, *, followed: bool) -> None:
        self.sets: set[str] = set()
        self.alters: set[str] = set()
        self.given: set[str] = set()
        self.rebound: set[str] = set()
        own = code.co_varnames[:1] in (("self",), ("cls",))
        self.arguments = range(
            int(own),
            code.co_argcount
            + code.co_kwonlyargcount
            + bool(code.co_flags & CO_VARARGS)
            + bool(code.co_flags & CO_VARKEYWORDS),
        )
        self._code = code
        self._known: dict[int, _Origin] = dict.fromkeys(self.arguments, _ARGUMENT)
        self._stack: list[_Origin] = []
        for operation, argument in _operations(code) if followed else ():
            self._step(operation, argument)

    def _at(self, place: int) -> _Origin:
        return self._stack[-place] if len(self._stack) >= place else _ELSEWHERE

    def _change(self, what: _Origin, name: str = "") -> None:
        name = name or what.name
        if name:
            self.alters.add(name)
            if what.is_global:
                self.sets.add(name)

    def _step(self, operation: int, argument: int) -> None:
        called, stack = dis.opname[operation], self._stack
        keeps = operation in _SETS or called in _KEEPS
        if called == "SWAP" and len(stack) >= argument:
            stack[-1], stack[-argument] = stack[-argument], stack[-1]
        elif called == "LOAD_FAST_LOAD_FAST":
            stack += [self._known.get(each, _ELSEWHERE) for each in (argument >> 4, argument & 15)]
        else:
            found = self._found(operation, argument, called)
            self._put(found, operation, argument, keeps=keeps)

    def _found(self, operation: int, argument: int, called: str) -> _Origin:
        """What an operation gives; notes what it changes, and remembers."""
        names = self._code.co_names
        found = _ELSEWHERE
        if operation in _SETS:
            self._set(_SETS[operation], argument)
        elif operation == _LOAD or operation in _NAMES:
            found = _Origin(names[argument >> 1 if operation == _LOAD else argument], True)
        elif operation in _GET:
            name = names[argument >> _GET[operation]]
            if name in _MUTATORS:
                self._change(self._at(1))
            found = _Origin(name, self._at(1).is_global)
        elif called == "BINARY_SUBSCR":
            found = self._at(2)
        elif called in ("IMPORT_NAME", "IMPORT_FROM"):
            found = _Origin(names[argument], True)
        elif called == "COPY":
            found = self._at(argument)
        elif called == "STORE_FAST":
            self._known[argument] = self._at(1)
        elif called in ("LOAD_FAST", "LOAD_FAST_CHECK"):
            found = self._known.get(argument, _ELSEWHERE)
        elif called == "STORE_FAST_STORE_FAST":
            self._known[argument >> 4], self._known[argument & 15] = self._at(1), self._at(2)
        elif called == "STORE_FAST_LOAD_FAST":
            self._known[argument >> 4] = self._at(1)
            found = self._known.get(argument & 15, _ELSEWHERE)
        return found

    def _set(self, below: int, argument: int) -> None:
        name = self._code.co_names[argument] if below < 2 else self._at(below).name
        if below == 0:
            self.sets.add(name)
        elif below > 1:
            self._change(self._at(below))
        elif self._code.co_name not in _MAKERS:
            self._change(self._at(1), name)
        if below < 2:
            self.rebound.add(name)
        if name and self._at(below + 1) is _ARGUMENT:
            self.given.add(name)

    def _put(self, found: _Origin, operation: int, argument: int, *, keeps: bool) -> None:
        """Takes from the stack what an operation takes, and puts there what it gives."""
        stack = self._stack
        if operation in _ENDS:
            stack.clear()
            return
        try:
            effect = dis.stack_effect(
                operation, argument if operation >= dis.HAVE_ARGUMENT else None, jump=False
            )
        except ValueError:
            stack.clear()
            return
        if effect <= 0:
            del stack[len(stack) + effect :]
            if stack and not keeps:
                stack[-1] = found
        else:
            if operation in _GET and stack:
                stack.pop()
                effect += 1
            stack += [found] * effect


def nested(code: CodeType) -> Iterator[CodeType]:
    """A code object, and all that is nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)
