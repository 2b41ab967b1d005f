"""A fixture that does more than return its value is refused, by name, when it is computed."""

from __future__ import annotations

import builtins
import json
import logging.handlers
import os
import signal
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator

import pytest
from nested_runs import run
from projects import Project

EFFECTS = {
    "environment": ("monkeypatch", "monkeypatch.setenv('V', '1')", "os.environ['V'] == '1'"),
    "environment by hand": ("", "os.environ['W'] = '1'", "os.environ.pop('W') == '1'"),
    "patched function": (
        "monkeypatch",
        "monkeypatch.setattr(helpers, 'answer', lambda: 2)",
        "helpers.answer() == 2",
    ),
    "patched library": (
        "monkeypatch",
        "monkeypatch.setattr(os, 'getcwdb', lambda: b'x')",
        "os.getcwdb() == b'x'",
    ),
    "started mock": (
        "request",
        "patcher = mock.patch('os.getcwdb', lambda: b'x'); patcher.start(); PATCHERS[0] = patcher",
        "os.getcwdb() == b'x' and PATCHERS[0].stop() is None or True",
    ),
    "directory for temporary files": (
        "",
        "tempfile.tempdir = os.getcwd()",
        "tempfile.gettempdir() == os.getcwd()",
    ),
    "traced memory": ("", "tracemalloc.start()", "tracemalloc.is_tracing()"),
    "hooks of generators": (
        "",
        "sys.set_asyncgen_hooks(print)",
        "sys.get_asyncgen_hooks().firstiter is print",
    ),
    "working directory": ("tmp_path", "os.chdir(tmp_path)", "os.getcwd().endswith('0')"),
    "module global": ("", "helpers.NUMBER = 2", "helpers.NUMBER == 2"),
    "container in a module": ("", "helpers.NAMES.append('x')", "helpers.NAMES"),
    "class attribute": ("", "helpers.Thing.size = 2", "helpers.Thing.size == 2"),
    "object in a module": ("", "helpers.THING.size = 3", "helpers.THING.size == 3"),
    "what an object holds": ("", "helpers.THING.names['x'] = 1", "helpers.THING.names"),
    "container in a container": ("", "helpers.TREE['a']['b'] = 1", "helpers.TREE['a']"),
    "queue in a module": ("", "helpers.QUEUE.append(1)", "helpers.QUEUE"),
    "function's attribute": ("", "helpers.answer.done = True", "helpers.answer.done"),
    "function's code": (
        "",
        "helpers.answer.__code__ = (lambda: 3).__code__",
        "helpers.answer() == 3",
    ),
    "function's defaults": (
        "",
        "helpers.answer.__defaults__ = (3,)",
        "helpers.answer.__defaults__ == (3,)",
    ),
    "special method": ("", "helpers.Thing.__len__ = lambda self: 4", "len(helpers.THING) == 4"),
    "class of a library": (
        "",
        "json.JSONEncoder.extra = lambda self: 5",
        "json.JSONEncoder().extra() == 5",
    ),
    "module in a package of Python's": (
        "",
        "logging.handlers.extra = helpers.THING",
        "logging.handlers.extra is helpers.THING",
    ),
    "callback of the collector": ("", "gc.callbacks.append(lambda *_: None)", "gc.callbacks.pop()"),
    "timer": (
        "",
        "signal.setitimer(signal.ITIMER_VIRTUAL, 100)",
        "signal.setitimer(signal.ITIMER_VIRTUAL, 0)[0] > 0",
    ),
    "signal mask": (
        "",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])",
    ),
    "profile function": (
        "",
        "sys.setprofile(lambda *_: None)",
        "sys.getprofile() and sys.setprofile(None) is None",
    ),
    "context variable": ("", "VARIABLE.set(5)", "VARIABLE.get() == 5"),
    "decimal context": (
        "",
        "decimal.getcontext().prec = 5",
        "decimal.getcontext().prec == 5 and decimal.setcontext(decimal.Context()) is None",
    ),
    "recursion limit": ("", "sys.setrecursionlimit(4321)", "sys.getrecursionlimit() == 4321"),
    "switch interval": ("", "sys.setswitchinterval(0.5)", "sys.getswitchinterval() == 0.5"),
    "umask": ("", "os.umask(0o027)", "os.umask(0o022) == 0o027"),
    "name of a library": ("", "signal.strsignal = len", "signal.strsignal is len"),
    "built-in name": ("", "builtins.extra = 5", "extra == 5"),
    "setter of a library": (
        "",
        "logging.setLoggerClass(type('Own', (logging.Logger,), {}))",
        "logging.getLoggerClass().__name__ == 'Own'",
    ),
    "arguments": ("", "sys.argv[1:] = ['x']", "sys.argv[1:] == ['x']"),
    "filter of a logger": (
        "",
        "logging.getLogger('app').addFilter(print)",
        "logging.getLogger('app').filters",
    ),
    "sys.path": ("", "sys.path.append('/nowhere')", "'/nowhere' in sys.path"),
    "sys.modules": ("", "sys.modules['fake'] = types.ModuleType('fake')", "'fake' in sys.modules"),
    "logging": ("", "logging.getLogger('app').setLevel(10)", "logging.getLogger('app').level"),
    "root handler": ("caplog", "caplog.set_level(5)", "logging.getLogger().level == 5"),
    "warning filters": (
        "",
        "warnings.simplefilter('ignore', UserWarning)",
        "warnings.warn('x', UserWarning) is None",
    ),
    "random seed": ("", "random.seed(5)", "random.random() == 0.6229016948897019"),
    "signal handler": (
        "",
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN",
    ),
    "changed upstream": ("upstream", "upstream.append(1)", "upstream == [0, 1]"),
    "holds upstream": ("upstream", "HELD[0] = upstream", "data is upstream"),
    "file in the project": ("", "open('made.txt', 'w').close()", "os.remove('made.txt') is None"),
    "file for the test": (
        "tmp_path",
        "(tmp_path / 'x').write_text('a')",
        "(tmp_path / 'x').read_text() == 'a'",
    ),
    "thread": (
        "",
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "threading.active_count() > 1",
    ),
    "child process": (
        "",
        "CHILDREN.append(subprocess.Popen([sys.executable, '-c', 'input()'],"
        " stdin=subprocess.PIPE))",
        "CHILDREN.pop().communicate(b'x') and True",
    ),
    "listening socket": (
        "",
        "SOCKETS.append(socket.create_server(('127.0.0.1', 0)))",
        "SOCKETS.pop().close() is None",
    ),
}


@pytest.fixture
def _undone() -> Iterator[None]:
    """Takes back what the fixtures of inner runs do to this process, for the tests that follow; by
    hand, since a patch would be seen."""
    arguments, named = [*sys.argv], signal.strsignal
    limit, interval = sys.getrecursionlimit(), sys.getswitchinterval()
    kind, mask = logging.getLoggerClass(), os.umask(0o022)
    os.umask(mask)
    directory, hooks = tempfile.tempdir, sys.get_asyncgen_hooks()
    yield
    tempfile.tempdir = directory
    tracemalloc.stop()
    sys.set_asyncgen_hooks(*hooks)
    sys.argv[:] = arguments
    signal.strsignal = named
    sys.setrecursionlimit(limit)
    sys.setswitchinterval(interval)
    logging.setLoggerClass(kind)
    logging.root.manager.loggerDict.pop("app", None)
    os.umask(mask)
    vars(builtins).pop("extra", None)
    vars(logging.handlers).pop("extra", None)
    if hasattr(json.JSONEncoder, "extra"):
        del json.JSONEncoder.extra


@pytest.mark.usefixtures("_undone")
@pytest.mark.parametrize("what", EFFECTS)
def test_effects(project: Project, what: str) -> None:
    """The second run has the same outcome as the first, since the fixture ran again."""
    takes, act, check = EFFECTS[what]
    also = next((name for name in ("upstream", "tmp_path") if name in check), "")
    project.write(
        "helpers.py",
        """
        import collections

        NUMBER, NAMES = 1, []

        def answer():
            return 1

        class Thing:
            size = 1

            def __init__(self):
                self.names = {}

        THING, TREE, QUEUE = Thing(), {"a": {}}, collections.deque()
        """,
    )
    project.write(
        "conftest.py",
        """
        import pytest

        @pytest.fixture
        def upstream():
            return [0]
        """,
    )
    project.write(
        "test_suite.py",
        f"""
        import builtins, contextvars, decimal, gc, json, logging.handlers, os, random, signal
        import socket, subprocess, sys, tempfile, threading, time, tracemalloc, types, warnings
        from unittest import mock
        import helpers
        from counter import count
        from pytest_taskcache import cached_fixture

        HELD, PATCHERS, CHILDREN, SOCKETS = [0], [0], [], []
        VARIABLE = contextvars.ContextVar("VARIABLE", default=0)

        @cached_fixture
        def data({takes}):
            count("effect")
            {act}
            return HELD[0] if {"holds" in what} else 1

        @cached_fixture
        def pure({takes if takes != "request" else ""}):
            count("pure")
            return [1]

        def test_it(data{", " + also if also else ""}):
            assert {check}

        def test_pure(pure):
            assert pure == [1]
        """,
    )
    for number in (1, 2):
        result = run(project, "-v", "-p", "no:threadexception")
        result.assert_outcomes(passed=2)
        assert project.counted("effect") == number, what
    assert project.counted("pure") == 1


SHARED = {
    "a part": ("upstream['names']", "data is upstream['names']"),
    "a part of a part": ("[upstream['thing'].names]", "data[0] is upstream['thing'].names"),
    "in a closure": ("lambda: upstream", "data() is upstream"),
    "what is in a closure": ("functools.partial(len, upstream)", "data.args[0] is upstream"),
    "what a module holds": ("helpers.TREE", "data is helpers.TREE"),
    "a part of what a module holds": ("helpers.TREE['a']", "data is helpers.TREE['a']"),
}
NOT_SHARED = {
    "a copy": ("list(upstream['names'])", "data == ['x']"),
    "a text": ("[upstream['text']]", "data == [upstream['text']]"),
    "what is found by name": ("upstream['kind']", "data is helpers.Thing"),
    "an object of a module": ("[upstream['nothing']]", "data[0] is helpers.NOTHING"),
    "a value of its own": ("{'a': helpers.NUMBER}", "data == {'a': 1}"),
}


@pytest.mark.parametrize("what", {**SHARED, **NOT_SHARED})
def test_a_value_that_shares_something(project: Project, what: str) -> None:
    """A copy would not change with it, or is not the same; so it is not kept. What cannot be
    told from its copy, or comes back as the same object, is kept."""
    value, check = {**SHARED, **NOT_SHARED}[what]
    project.write(
        "helpers.py",
        """
        class Thing:
            def __init__(self):
                self.names = {}

        NUMBER, TREE = 1, {"a": {}}
        NOTHING = object()
        """,
    )
    project.write(
        "test_suite.py",
        f"""
        import functools, helpers, pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def upstream():
            return {{
                "names": ["x"],
                "thing": helpers.Thing(),
                "text": "some text",
                "kind": helpers.Thing,
                "nothing": helpers.NOTHING,
            }}

        @cached_fixture
        def data(upstream):
            count("body")
            return {value}

        def test_it(data, upstream):
            assert {check}
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == (2 if what in SHARED else 1)


BY_NAME = {
    "holds it": ("{'x': request.getfixturevalue('upstream')}", "data['x'] is upstream"),
    "holds a part": ("request.getfixturevalue('upstream')['names']", "data is upstream['names']"),
    "changes it": ("request.getfixturevalue('upstream').update(a=1)", "upstream['a'] == 1"),
    "holds its test's": ("self.items", "data is self.items"),
    "only reads it": ("len(request.getfixturevalue('upstream'))", "data == 1"),
}


@pytest.mark.parametrize("what", BY_NAME)
def test_what_is_asked_for_by_name(project: Project, what: str) -> None:
    """It is another fixture's as much as an argument is; so is what the test's instance has."""
    value, check = BY_NAME[what]
    project.write(
        "test_suite.py",
        f"""
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @pytest.fixture
        def upstream():
            return {{"names": ["x"]}}

        class TestIt:
            def setup_method(self):
                self.items = [1]

            @cached_fixture
            def data(self, request):
                count("body")
                return {value}

            def test_it(self, data, upstream):
                assert {check}
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == (1 if what == "only reads it" else 2)


def test_what_a_test_case_is_given(project: Project) -> None:
    """Attributes of the test's instance and its class."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        class TestSelf:
            @cached_fixture(autouse=True)
            def size(self):
                count("self")
                self.size = 5

            def test_it(self):
                assert self.size == 5

        class TestClass:
            @cached_fixture(autouse=True)
            def size(self):
                count("class")
                type(self).size = 5

            def test_it(self):
                assert self.size == 5
        """,
    )
    for number in (1, 2):
        run(project).assert_outcomes(passed=2)
        assert project.counted("self") == project.counted("class") == number


def test_temporary_files_that_nobody_looks_for(project: Project) -> None:
    """Those of a fixture that alone is given the directory, and those that its value names."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(tmp_path):
            count("data")
            (tmp_path / "x").write_text("a")
            return 1

        @cached_fixture
        def file(tmp_path):
            count("file")
            (tmp_path / "y").write_text("a")
            return tmp_path / "y"

        def test_data(data):
            assert data == 1

        def test_file(file, tmp_path):
            assert file.read_text() == "a"
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert project.counted("data") == project.counted("file") == 1


def test_files_left_in_the_working_directory(project: Project) -> None:
    """Where another fixture made the temporary directory that."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @pytest.fixture(autouse=True)
        def inside(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)

        @cached_fixture
        def data():
            count("data")
            with open("x", "w") as file:
                file.write("a")
            return 1

        def test_it(data):
            with open("x") as file:
                assert file.read() == "a"
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == 2


def test_the_summary_names_the_effect_and_the_fixture(project: Project) -> None:
    """And how to have it cached all the same."""
    project.write(
        "test_suite.py",
        """
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(monkeypatch):
            monkeypatch.setenv("MODE", "1")
            return 1

        def test_it(data):
            pass
        """,
    )
    result = run(project, "-v")
    result.stdout.fnmatch_lines(["*changed the environment*"])


def test_an_author_who_answers(project: Project) -> None:
    """``allow={"effects"}``: kept, and on a hit the effect is not there."""
    project.write(
        "test_suite.py",
        """
        import os
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(allow={"effects"})
        def data(monkeypatch):
            count("body")
            monkeypatch.setenv("MODE", "1")
            return 1

        def test_it(data):
            assert data == 1
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == 1


def test_what_is_no_effect(project: Project) -> None:
    """Importing modules, drawing random numbers, using temporary files, threads that ended,
    calculating with decimals, what an object or a library computes once, loggers that are made."""
    project.write("lazily.py", "import logging\nlogging.getLogger('lazily').setLevel(10)\n")
    project.write(
        "test_suite.py",
        """
        import decimal, functools, logging, mimetypes, random, subprocess, sys, tempfile
        import threading, uuid
        from counter import count
        from pytest_taskcache import cached_fixture

        class Thing:
            @functools.cached_property
            def size(self):
                return 1

        THING, LOGGER = Thing(), logging.getLogger("a")

        @cached_fixture(scope="module")
        def data(tmp_path_factory):
            count("body")
            import csv, lazily
            assert THING.size and decimal.Decimal(1) / 3
            logging.getLogger("a.b").warning("c")
            assert mimetypes.guess_type("a.txt") and tempfile.gettempdir() and uuid.uuid1()
            (tmp_path_factory.mktemp("x") / "y").write_text("z")
            numbers = [random.random() for _ in range(5000)]
            thread = threading.Thread(target=print)
            thread.start()
            thread.join()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            return len(numbers)

        def test_it(data):
            assert data == 5000
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == 1
