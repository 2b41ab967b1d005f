"""What globals hold when a cache is opened without pytest: nobody saw how it came there."""

from __future__ import annotations

import sys

import pytest
from bodies import times

LIBRARY = """
    import functools, os, sys, threading
    from bodies import ran
    from pytest_taskcache import *

    class Client:
        def __init__(self, url):
            self.url, self.lock = url, threading.Lock()

    class Config:
        level = 0

    LIMIT, OTHER, client, _rows, lock = 0, 0, Client("a"), None, threading.Lock()
    config = Config()

    def rows():
        global _rows
        if _rows is None:
            _rows = [0]
        return _rows

    @functools.lru_cache
    def settings(name):
        return os.environ.get(name, "")

    def limit():
        return LIMIT

    @cached
    def function():
        ran("function")
        with lock:
            return BODY
"""


def set_limit(lib):
    lib.LIMIT = 1


def set_client(lib):
    lib.client = lib.Client("b")


def set_level(lib):
    lib.Config.level = 1


def set_rows(lib):
    lib._rows = [1]


def ask(lib):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMIT", "1")
        lib.settings("LIMIT")


def set_arguments(lib):
    sys.argv.append("1")


KINDS = {
    "a constant": ("limit()", set_limit),
    "an object with a lock": ("client.url", set_client),
    "an attribute of a class": ("config.level", set_level),
    "a memory of its own": ("rows()[0]", set_rows),
    "a cache in memory": ("settings('LIMIT')", ask),
    "the arguments of a script": ("sys.argv[-1]", set_arguments),
}


@pytest.fixture
def arguments():
    """Those of the process, which are put back."""
    before = list(sys.argv)
    yield before
    sys.argv[:] = before


@pytest.mark.parametrize("name", KINDS)
def test_what_was_set_before_a_cache_was_opened_counts(closed, load, arguments, name):
    """Another process may have come to hold something else, with nothing seen to differ."""
    read, change = KINDS[name]
    found = []
    for step in (None, None, change, change, None):
        sys.argv[:] = arguments
        lib = load("lib", LIBRARY.replace("BODY", read))
        if step is not None:
            step(lib)
        with closed:
            found.append((lib.function(), lib.function(), times()))
    values, counts = [each[:2] for each in found], [each[2] for each in found]
    assert values[0] == values[1] == values[4]
    assert values[2] == values[3] != values[0]
    assert counts == [1, 1, 2, 2, 2]


def test_what_nothing_reads_does_not_count(closed, load):
    """Nor does what an import while the cache is open does, which is observed."""
    text = LIBRARY.replace("BODY", "limit()")
    for other in (1, 2):
        lib = load("lib", text)
        lib.OTHER = other
        with closed:
            assert lib.function() == 0
    assert times() == 1
