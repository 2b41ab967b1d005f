"""Who does what is noticed: the project's code on a stack, as nodes of its log.

test_a -> lib.load -> json.load   load does it; test_a called it, and may keep what came of it
pool.submit(read) in lib.load     read runs in a thread, with no code of the project on its
                                  stack: load, which sent it off, does what it does
"""

from __future__ import annotations

import dis
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from weakref import WeakKeyDictionary

from pytest_taskcache.code.definitions import definition_name
from pytest_taskcache.observation.code_log import CodeLog, SourceFile
from pytest_taskcache.observation.hooks.callers import ActsFor, Aside, origin_of
from pytest_taskcache.observation.hooks.opaque import POOLS
from pytest_taskcache.observation.scratch import BY_CODE, BY_IMPORT, BY_RUNNER
from pytest_taskcache.observation.source_archive import SourceArchive

NOBODY = -1
"""The position of no node."""

_STORES = dis.opmap["STORE_GLOBAL"]


class Doers:
    """Nodes of the log by the frames of whoever acts. ``find`` gives the project's file of a code
    object's file name, or None; ``archive`` what its files define; what runs while ``aside`` is
    entered is the cache's own work."""

    def __init__(
        self,
        find: Callable[[str], SourceFile | None],
        log: CodeLog,
        aside: Aside,
        archive: SourceArchive,
    ) -> None:
        self._find = find
        self._log = log
        self._aside = aside
        self._archive = archive
        self._senders = WeakKeyDictionary[object, int]()

    def send(self, work: object, frame: FrameType | None) -> None:
        """A thread, or an item of work for one, is about to be sent off."""
        owner = self.owner(frame)
        if owner != NOBODY:
            self._senders[work] = owner

    def owner(self, frame: FrameType | None) -> int:
        """The node of the innermost function of the project on the stack, so far as it acts by
        itself and not through the test machinery, or of who sent it off where it has a thread to
        itself; -1 if there is none."""
        if self._aside.depth and not _imports_something(frame):
            return NOBODY
        while frame is not None:
            code = frame.f_code
            source = self._find(code.co_filename)
            if source is not None and source.python:
                return self._log.position_now(code)
            if source is None and origin_of(code.co_filename) is ActsFor.MACHINERY:
                return NOBODY
            if code.co_name == "run" and frame.f_globals.get("__name__") == POOLS:
                return self._senders.get(frame.f_locals["self"], NOBODY)
            frame = frame.f_back
        if not self._senders:  # to ask for the thread would make one up for a stranger's
            return NOBODY
        return self._senders.get(threading.current_thread(), NOBODY)

    def loading(self, frame: FrameType | None) -> set[str]:
        """The top-level modules of others whose bodies run, on the way to the innermost function of
        the project on the stack: whoever imports one later gets what came of it."""
        found: set[str] = set()
        while frame is not None and not self._aside.depth:
            code = frame.f_code
            if self._find(code.co_filename) or origin_of(code.co_filename) is ActsFor.MACHINERY:
                break
            if code.co_name == "<module>":
                found.add(str(frame.f_globals.get("__name__")).partition(".")[0])
            frame = frame.f_back
        return found

    def makers(self, frame: FrameType | None) -> list[int]:
        """The nodes of all of the project's code on the stack."""
        self._log.read_runs()
        return [self._log.position(code) for _, code in self._code_on(_beyond_us(frame))]

    def maker(self, frame: FrameType | None, *, before_tests: bool) -> tuple[str, tuple[int, ...]]:
        """Who does what is noticed in this frame of ours: the test runner, code of a test or a
        script, or what runs before the first test, a module's body or a hook; then with the nodes
        of the project's code that does it."""
        if self._aside.depth:
            return BY_IMPORT, ()
        frame = _beyond_us(frame)
        maker, codes = BY_RUNNER, list[CodeType]()
        while frame is not None:
            code = frame.f_code
            origin = origin_of(code.co_filename)
            if origin is ActsFor.MACHINERY:
                if maker == BY_CODE and before_tests:
                    maker = BY_IMPORT
                break
            if origin is ActsFor.OUTSIDE and maker != BY_IMPORT:
                body = code.co_name == "<module>" and not code.co_filename.startswith("<doctest ")
                main = frame.f_globals.get("__name__") == "__main__"
                maker = BY_IMPORT if body and not main else BY_CODE
            codes.append(code)
            frame = frame.f_back
        if maker != BY_IMPORT:
            return maker, ()
        self._log.read_runs()
        return maker, tuple(each for each in map(self._log.position, codes) if each >= 0)

    def keepers(self, frame: FrameType | None) -> list[int]:
        """The nodes of the project's functions on the stack that may keep what they got: something
        that remembers is around them, or they set a global. (One that sets an attribute is left
        out, or whatever uses a client's class would be refused for a connection of another test.)
        What the runner calls is none: tests, and fixtures, which have an account of their own.
        """
        found: list[int] = []
        last = NOBODY
        while frame is not None:
            code = frame.f_code
            source = self._find(code.co_filename)
            if source is not None and source.python:
                found.append(last)
                keeps = _STORES in code.co_code[::2] or self._is_wrapped(source, code)
                last = self._log.position(code) if keeps else NOBODY
            elif source is None and origin_of(code.co_filename) is ActsFor.MACHINERY:
                last = NOBODY
                break
            frame = frame.f_back
        return [each for each in dict.fromkeys((*found, last)) if each != NOBODY]

    def _is_wrapped(self, source: SourceFile, code: CodeType) -> bool:
        """Whether something that remembers is around a function."""
        analysis = self._archive.present(source.name, self._log.digests.get(source.name, ""))
        name = definition_name(code.co_qualname)
        known = analysis.definitions if analysis is not None else ()
        return any(each.wrapped and each.name == name for each in known)

    def _code_on(self, frame: FrameType | None) -> Iterator[tuple[SourceFile, CodeType]]:
        """The project's code on the stack, innermost first, up to the test machinery."""
        while frame is not None:
            source = self._find(frame.f_code.co_filename)
            if source is not None and source.python:
                yield source, frame.f_code
            elif origin_of(frame.f_code.co_filename) is ActsFor.MACHINERY:
                return
            frame = frame.f_back

    def sources(self, frame: FrameType | None) -> Iterator[SourceFile]:
        """The files of that code."""
        return (source for source, _ in self._code_on(frame))


def _beyond_us(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is none of ours."""
    while frame and str(frame.f_globals.get("__name__")).startswith("pytest_taskcache."):
        frame = frame.f_back
    return frame


def _imports_something(frame: FrameType | None) -> bool:
    """Whether a module's body is running: one that is first imported to decode a value is used
    by others later, so what it touches counts though it is the cache that asked for it."""
    while frame is not None:
        origin = origin_of(frame.f_code.co_filename)
        if origin is ActsFor.OUTSIDE and frame.f_code.co_name == "<module>":
            return True
        if origin is ActsFor.MACHINERY:
            return False
        frame = frame.f_back
    return False
