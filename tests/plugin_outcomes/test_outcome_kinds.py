"""Every kind of test there is: cached once it plainly passed, never when it did not."""

from __future__ import annotations

import sys

import pytest
from inner_runs import line_of, run
from projects import Project


def _cached_once(project: Project, *args: str, passed: int, plugins: tuple[str, ...] = ()) -> None:
    """Two runs that pass; in the second no body ran, and every test was replayed."""
    options = ("--cache-tests=all", *args)
    run(project, *options, plugins=plugins).assert_outcomes(passed=passed)
    counted = project.counted()
    warm = run(project, *options, "-v", plugins=plugins)
    warm.assert_outcomes(passed=passed)
    assert project.counted() == counted
    assert sum("CACHED" in line for line in warm.outlines) == passed


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("pytest.skip('no')", {"skipped": 1}),
        ("pytest.xfail('no')", {"xfailed": 1}),
        ("assert 0", {"failed": 1}),
        ("raise SystemExit(1)", {"failed": 1}),
        ("unittest.TestCase().skipTest('no')", {"skipped": 1}),
    ],
)
def test_what_did_not_pass_is_not_stored(
    project: Project, body: str, outcomes: dict[str, int]
) -> None:
    """A skip, an xfail or a failure runs again each time."""
    project.write(
        "test_suite.py",
        f"""
        import unittest
        import pytest
        from counter import count

        def test_it():
            count("body")
            {body}
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(**outcomes)
    assert project.counted() == 2


def test_an_expected_failure_is_not_stored(project: Project) -> None:
    """Neither an xfail by mark nor an unexpected pass is a plain pass; nor are those of
    unittest, nor a skip by mark."""
    project.write(
        "test_suite.py",
        """
        import unittest
        import pytest
        from counter import count

        @pytest.mark.xfail
        def test_fails():
            count("xfail")
            assert 0

        @pytest.mark.xfail
        def test_passes():
            count("xpass")

        @pytest.mark.skipif("True", reason="no")
        def test_skipped():
            count("never")

        class TestUnit(unittest.TestCase):
            @unittest.expectedFailure
            def test_fails(self):
                count("expected")
                assert 0
        """,
    )
    for n in (1, 2):
        result = run(project, "--cache-tests=all")
        result.assert_outcomes(xfailed=2, xpassed=1, skipped=1)
        for name in ("xfail", "xpass", "expected"):
            assert project.counted(name) == n


def test_a_failing_teardown_is_not_stored(project: Project) -> None:
    """A test whose teardown fails has not passed."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture
        def data():
            yield
            raise OSError

        def test_it(data):
            count("body")
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(passed=1, errors=1)
    assert project.counted() == 2


def test_a_pass_on_the_second_attempt_is_not_stored(project: Project) -> None:
    """What needed a rerun to pass is run again next time."""
    pytest.importorskip("pytest_rerunfailures")
    project.write(
        "test_suite.py",
        """
        from counter import count
        attempts = []

        def test_it():
            count("body")
            attempts.append(1)
            assert len(attempts) % 2 == 0
        """,
    )
    for _ in range(2):
        result = run(project, "--cache-tests=all", "--reruns=2", plugins=("rerunfailures",))
        result.stdout.fnmatch_lines(["*1 passed, 1 rerun*"])
    assert project.counted() == 4


def test_reruns_leave_plain_passes_cached(project: Project) -> None:
    """With ``--reruns`` a test that passes at once is replayed like any other."""
    pytest.importorskip("pytest_rerunfailures")
    project.write("test_suite.py", "from counter import count\ndef test_it():\n    count('body')\n")
    _cached_once(project, "--reruns=2", passed=1, plugins=("rerunfailures",))


def test_unittest_methods_are_cached(project: Project) -> None:
    """Methods of unittest classes, with their set-up and inherited tests, are replayed."""
    project.write(
        "test_suite.py",
        """
        import unittest
        from counter import count

        class Base(unittest.TestCase):
            def setUp(self):
                count("setup")

            def test_inherited(self):
                count("inherited")

        class TestOne(Base):
            @classmethod
            def setUpClass(cls):
                cls.data = [1]

            def test_own(self):
                count("own")
                self.assertEqual(self.data, [1])

            def tearDown(self):
                count("teardown")

        class TestAsync(unittest.IsolatedAsyncioTestCase):
            async def test_async(self):
                count("async")
        """,
    )
    _cached_once(project, passed=4)


SUBTESTS = """
    import unittest
    from counter import count

    def test_plain(subtests):
        count("plain")
        for n in range(3):
            with subtests.test(msg="step", n=n, text="it's"):
                assert n < 5

    class TestUnit(unittest.TestCase):
        def test_method(self):
            count("method")
            for n in range(2):
                with self.subTest(n=n):
                    self.assertLess(n, 5)
"""


def _subtests(result: pytest.RunResult) -> list[str]:
    """What stands beside each SUBPASSED."""
    lines = [line for line in result.outlines if " SUBPASSED" in line]
    return [line.split(" SUBPASSED")[1].split("  ")[0] for line in lines]


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests are built in since pytest 9")
@pytest.mark.parametrize("verbosity", [(), ("-v",)])
def test_passing_subtests_are_replayed(project: Project, verbosity: tuple[str, ...]) -> None:
    """Subtests that passed are told again, each with its parameters as they were written, and
    the counts are those of the real run."""
    project.write("test_suite.py", SUBTESTS)
    cold = run(project, "--cache-tests=all", *verbosity)
    warm = run(project, "--cache-tests=all", *verbosity)
    assert project.counted() == 2
    assert warm.parseoutcomes() == cold.parseoutcomes()
    assert _subtests(cold) == _subtests(warm)
    assert len(_subtests(warm)) == (5 if verbosity else 0)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests are built in since pytest 9")
def test_a_failing_subtest_is_not_stored(project: Project) -> None:
    """One failed or skipped subtest, and the test runs again, though its own report may pass."""
    project.write(
        "test_suite.py",
        """
        import pytest
        import unittest
        from counter import count

        def test_fails(subtests):
            count("fails")
            with subtests.test():
                assert 0

        def test_skips(subtests):
            count("skips")
            with subtests.test():
                pytest.skip("not this one")

        class TestUnit(unittest.TestCase):
            def test_method(self):
                count("method")
                with self.subTest(n=1):
                    assert 0
        """,
    )
    for n in (1, 2):
        run(project, "--cache-tests=all")
        for name in ("fails", "skips", "method"):
            assert project.counted(name) == n


def test_doctests_are_cached(project: Project) -> None:
    """Doctests of modules are replayed until their text, or the code they run, changes."""
    project.write(
        "mod.py",
        '''
        from counter import count
        FACTOR = 2

        def twice(x):
            """Doubles.

            >>> twice(4)
            8
            """
            count("twice")
            return x * FACTOR
        ''',
    )
    _cached_once(project, "--doctest-modules", "mod.py", passed=1)
    text = (project.path / "mod.py").read_text()
    project.write("mod.py", text.replace("x * FACTOR", "FACTOR * x"))
    _cached_once(project, "--doctest-modules", "mod.py", passed=1)
    assert project.counted() == 2
    project.write("mod.py", text.replace("FACTOR = 2", "FACTOR = 3"))
    run(project, "--cache-tests=all", "--doctest-modules", "mod.py").assert_outcomes(failed=1)
    assert project.counted() == 3


def test_a_doctest_that_runs_no_function_knows_its_module(project: Project) -> None:
    """A constant that only the doctest reads is a dependency of it."""
    source = '''
        """Module.

        >>> FACTOR
        2
        """
        FACTOR = 2
        '''
    project.write("mod.py", source)
    _cached_once(project, "--doctest-modules", "mod.py", passed=1)
    project.write("mod.py", source.replace("FACTOR = 2", "FACTOR = 3"))
    run(project, "--cache-tests=all", "--doctest-modules", "mod.py").assert_outcomes(failed=1)


def test_a_doctest_knows_what_it_imports(project: Project) -> None:
    """A constant of a module that the examples import is a dependency, also where another test
    imported the module first."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write("values.py", "LIMIT = 2\n")
    project.write("test_first.py", "import values\n\ndef test_it():\n    pass\n")
    project.write("test_it.txt", ">>> from values import LIMIT\n>>> LIMIT\n2\n")
    _cached_once(project, passed=2)
    project.write("values.py", "LIMIT = 3\n")
    run(project, "--cache-tests=all").assert_outcomes(passed=1, failed=1)


def test_a_doctest_knows_what_it_only_reads(project: Project) -> None:
    """Attributes that only the examples read are dependencies, also where others imported the
    modules, and of what a conftest hands to the examples."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write("values.py", "LIMIT = 2\nOTHER = 2\n")
    project.write(
        "mod.py", 'import values\n\ndef f():\n    """\n    >>> values.LIMIT\n    2\n    """\n'
    )
    project.write(
        "conftest.py",
        """
        import mod, pytest

        @pytest.fixture(autouse=True)
        def handed(doctest_namespace):
            doctest_namespace["handed"] = mod.f
        """,
    )
    project.write("test_it.txt", ">>> handed.__globals__['values'].OTHER\n2\n")
    arguments = ("--doctest-modules", "mod.py", "test_it.txt")
    _cached_once(project, *arguments, passed=2)
    project.write("values.py", "LIMIT = 3\nOTHER = 2\n")
    run(project, "--cache-tests=all", *arguments).assert_outcomes(passed=1, failed=1)
    project.write("values.py", "LIMIT = 2\nOTHER = 3\n")
    run(project, "--cache-tests=all", *arguments).assert_outcomes(passed=1, failed=1)


def test_doctests_of_text_files_are_cached(project: Project) -> None:
    """A text file's examples are replayed until one of them changes."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write(
        "helper.py", "from counter import count\ndef f():\n    count('f')\n    return 1\n"
    )
    project.write("test_it.txt", "Some text\n\n>>> from helper import f\n>>> f()\n1\n")
    _cached_once(project, passed=1)
    project.write("test_it.txt", "Other text\n\n>>> from helper import f\n>>> f() + 0\n1\n")
    _cached_once(project, passed=1)
    assert project.counted() == 2
    project.write(
        "helper.py", "from counter import count\ndef f():\n    count('f')\n    return 2\n"
    )
    run(project, "--cache-tests=all").assert_outcomes(failed=1)


def test_a_temporary_file_that_a_hook_made_stands_for_the_hook(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has another name in each run, which is no change; what its maker read is."""
    project.write(
        "conftest.py",
        """
        import os, shutil, tempfile

        def put(path):
            with open(path, "w") as file:
                file.write(os.environ["PRICE"])

        def pytest_configure(config):
            config.made = tempfile.mkdtemp()
            put(os.path.join(config.made, "price"))

        def pytest_unconfigure(config):
            shutil.rmtree(config.made)
        """,
    )
    project.write(
        "test_suite.py",
        """
        import argparse, os
        from counter import count
        from pytest_taskcache import cached
        MADE = argparse.ArgumentParser()  # not looked into, as a dictionary would be

        @cached
        def price():
            count("function")
            with open(os.path.join(MADE.here, "price")) as file:
                return file.read()

        def test_read(pytestconfig):
            count("test")
            with open(os.path.join(pytestconfig.made, "price")) as file:
                assert file.read() == "1"

        def test_call(pytestconfig):
            MADE.here = pytestconfig.made
            assert price() == "1"
        """,
    )
    monkeypatch.setenv("PRICE", "1")
    _cached_once(project, passed=2)
    assert project.counted() == 2
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert project.counted("function") == 1
    monkeypatch.setenv("PRICE", "2")
    run(project, "--cache-tests=all").assert_outcomes(failed=2)
    assert (project.counted("function"), project.counted("test")) == (2, 4)


def test_hypothesis_tests_are_cached_where_marked_themselves(project: Project) -> None:
    """Examples are drawn anew each time: only a mark on the test itself says that one draw is
    enough."""
    pytest.importorskip("hypothesis")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from hypothesis import given, settings, strategies

        @settings(max_examples=3, database=None, derandomize=False)
        @given(strategies.integers())
        def test_drawn(n):
            count("drawn")

        @pytest.mark.cached
        @settings(max_examples=3, database=None)
        @given(strategies.integers())
        def test_marked(n):
            count("marked")
        """,
    )
    run(project, "--cache-tests=all", plugins=("hypothesispytest",)).assert_outcomes(passed=2)
    drawn, marked = project.counted("drawn"), project.counted("marked")
    result = run(project, "--cache-tests=all", plugins=("hypothesispytest",))
    result.assert_outcomes(passed=2)
    assert project.counted("drawn") > drawn
    assert project.counted("marked") == marked
    assert "hypothesis test" in line_of(result)


def test_the_same_id_with_another_value_is_another_test(project: Project) -> None:
    """Parameters count by value: an id that stays while its value changes is run again."""
    source = """
        import pytest
        from counter import count
        from values import VALUE

        @pytest.mark.parametrize("value", [pytest.param(VALUE, id="it"), pytest.param(9, id="on")])
        def test_it(value):
            count("it" if value != 9 else "on")
        """
    project.write("values.py", "VALUE = [1]\n")
    project.write("test_suite.py", source)
    _cached_once(project, passed=2)
    project.write("values.py", "import json, pathlib\nVALUE = json.loads('[2]')\n")
    run(project, "--cache-tests=all").assert_outcomes(passed=2)
    assert project.counted("it") == 2


def test_parameters_are_told_apart(project: Project) -> None:
    """Cases whose values JSON or equality would merge are tests of their own."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.parametrize("value", [1, True, 1.0, "1", b"1", (1,), [1], None])
        def test_it(value):
            count(f"{type(value).__name__}")
        """,
    )
    _cached_once(project, passed=8)
    assert project.counted() == 8


def test_a_parameter_without_content_counts_by_where_it_comes_from(project: Project) -> None:
    """A connection, a bare object, a bound method of the test's class: such cases are replayed,
    and run again when the module that makes them changes."""
    source = """
        import sqlite3
        import pytest
        from counter import count

        class TestIt:
            def check(self):
                return 1

            @pytest.mark.parametrize(
                "value", [sqlite3.connect(":memory:"), object(), object(), 1], ids="abcd"
            )
            @pytest.mark.parametrize("how", [check])
            def test_it(self, value, how):
                count("body")
                assert how(self) == 1
        """
    project.write("test_suite.py", source)
    _cached_once(project, passed=4)
    project.write("test_suite.py", source.replace(":memory:", ""))
    run(project, "--cache-tests=all").assert_outcomes(passed=4)
    assert project.counted() == 8


def test_asyncio_tests_are_cached(project: Project) -> None:
    """Coroutines that pytest-asyncio runs are replayed, and changed helpers run them again."""
    pytest.importorskip("pytest_asyncio")
    project.write("helper.py", "async def value():\n    return 1\n")
    project.write(
        "test_suite.py",
        """
        import asyncio
        import pytest
        import pytest_asyncio
        from counter import count
        from helper import value

        @pytest_asyncio.fixture
        async def data():
            await asyncio.sleep(0)
            return 1

        @pytest.mark.asyncio
        async def test_it(data):
            count("body")
            await asyncio.sleep(0)
            assert await value() >= data
        """,
    )
    _cached_once(project, passed=1)
    project.write("helper.py", "async def value():\n    return 2\n")
    _cached_once(project, passed=1)
    assert project.counted() == 2


def test_anyio_tests_are_cached(project: Project) -> None:
    """Coroutines that anyio runs are replayed, one for each backend."""
    pytest.importorskip("anyio")
    project.write(
        "test_suite.py",
        """
        import anyio
        import pytest
        from counter import count

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it():
            count("body")
            await anyio.sleep(0)
        """,
    )
    _cached_once(project, passed=1, plugins=("anyio",))


def test_effects_outside_of_reports_are_not_replayable(project: Project) -> None:
    """A test that uses ``record_xml_attribute`` or ``record_testsuite_property`` runs each time:
    what they write is in no report."""
    project.write(
        "test_suite.py",
        """
        from counter import count

        def test_attribute(record_xml_attribute):
            count("attribute")

        def test_property(record_testsuite_property):
            count("property")
        """,
    )
    for _ in range(2):
        result = run(project, "--cache-tests=all", "-p", "no:warnings")
        result.assert_outcomes(passed=2)
    assert project.counted() == 4
    assert "uses record_xml_attribute" in line_of(result)


@pytest.mark.parametrize("again", ["test_suite.py", "test_suite.py::test_it"])
def test_a_test_that_is_collected_twice_is_told_twice(project: Project, again: str) -> None:
    """The same test given twice on the command line counts twice, cold and warm."""
    project.write("test_suite.py", "from counter import count\ndef test_it():\n    count('body')\n")
    for _ in range(3):
        result = run(project, "--cache-tests=all", "--keep-duplicates", "test_suite.py", again)
        result.assert_outcomes(passed=2)
    assert project.counted() <= 2


def test_custom_items_run_each_time(project: Project) -> None:
    """An item without a function has nothing to be keyed on: it runs, and the line says so."""
    project.write(
        "conftest.py",
        """
        import pytest
        from counter import count

        class Line(pytest.Item):
            def runtest(self):
                count("line")

        class Lines(pytest.File):
            def collect(self):
                yield Line.from_parent(self, name="first")

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".lines":
                return Lines.from_parent(parent, path=file_path)
        """,
    )
    project.write("it.lines", "")
    for _ in range(2):
        result = run(project, "--cache-tests=all")
        result.assert_outcomes(passed=1)
    assert project.counted() == 2
    assert "not a function" in line_of(result)


def test_generated_functions_are_told_apart(project: Project) -> None:
    """Tests made in a loop from closures differ by what they closed over."""
    source = """
        from counter import count

        def make(n):
            def test():
                count(f"made {n}")
                assert n < LIMIT
            return test

        LIMIT = 5
        test_one, test_two = make(1), make(2)
        """
    project.write("test_suite.py", source)
    _cached_once(project, passed=2)
    project.write("test_suite.py", source.replace("make(2)", "make(3)"))
    run(project, "--cache-tests=all").assert_outcomes(passed=2)
    assert project.counted("made 3") == 1


def test_modules_that_a_test_writes_and_imports_are_no_dependency(project: Project) -> None:
    """A module that a test puts into its temporary directory and imports by a statement is its
    own doing: the outcome is kept, until the project gets a module of that name."""
    project.write(
        "test_suite.py",
        """
        import sys

        def test_it(tmp_path, monkeypatch):
            (tmp_path / "generated_here.py").write_text("answer = 42")
            monkeypatch.syspath_prepend(tmp_path)
            import generated_here
            assert generated_here.answer == 42
        """,
    )
    run(project, "--cache-tests=all").assert_outcomes(passed=1)
    sys.modules.pop("generated_here", None)
    warm = run(project, "--cache-tests=all")
    assert line_of(warm).startswith("1 test reused")
    project.write("generated_here.py", "answer = 43")
    sys.modules.pop("generated_here", None)
    result = run(project, "--cache-tests=all", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*generated_here*"])
    assert "reused" not in line_of(result)


@pytest.mark.parametrize(
    "keeping",
    [
        "@functools.lru_cache\ndef version():\n    return asked()",
        "KEPT = None\ndef version():\n    global KEPT\n    KEPT = KEPT or asked()\n    return KEPT",
    ],
    ids=["remembered", "stored"],
)
@pytest.mark.parametrize(
    "act",
    [
        "subprocess.check_output([sys.executable, '-c', ''])",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))",
    ],
    ids=["child", "connection"],
)
def test_who_uses_what_an_earlier_test_got_elsewhere_is_refused(
    project: Project, keeping: str, act: str
) -> None:
    """As the test that asked, though the function that keeps it does not run again."""
    head = "import functools, socket, subprocess, sys\nfrom counter import count\n"
    asked = f"def asked():\n    {act}\n    return 1\n"
    tests = (
        "def test_first():\n    assert version()\n"
        "def test_second():\n    count('second')\n    assert version()\n"
        "def test_other():\n    count('other')\n"
    )
    project.write("test_suite.py", f"{head}{asked}{keeping}\n{tests}")
    for number in (1, 2):
        run(project, "--cache-tests=all").assert_outcomes(passed=3)
        assert project.counted("second") == number
    assert project.counted("other") == 1
