"""Whoever looks into a test gets the real one, in place; what a record cannot answer for is
collected really; and a record that proves wrong costs nothing but itself."""

from __future__ import annotations

import pytest
from inner_runs import run
from odd_project import Seen, see
from projects import Project

PLAIN = ("-p", "no:taskcache")
WARM = ("--cache-tests=all",)

SUITE = """
    import pytest

    class Thing:
        pass

    @pytest.fixture(scope="module", autouse=True)
    def log():
        yield

    @pytest.mark.parametrize("x", [1, Thing()])
    def test_p(x):
        '''What it is for.'''

    class TestC:
        def test_m(self):
            pass
"""


def _twice(project: Project, *options: str, plugins: tuple[str, ...] = ()) -> Seen:
    """A warm run after a cold one, of which the cases equal those of a plain run."""
    plain = see(project, *PLAIN, *options, plugins=plugins)
    see(project, *WARM, *options, plugins=plugins)
    warm = see(project, *WARM, *options, plugins=plugins)
    assert warm.cases == plain.cases
    assert warm.outcomes == plain.outcomes
    return warm


LOOKING = {
    "function": ("item.function.__doc__", True),
    "module": ("item.module.__name__", True),
    "cls": ("item.cls and item.cls.__name__", True),
    "params": ("getattr(item, 'callspec', None) and item.callspec.params['x']", True),
    "marks": ("[mark.kwargs for mark in item.iter_markers()]", True),
    "fixtures": ("item.fixturenames", False),
    "place": ("item.location[1], item.path.name, item.originalname", False),
    "ids": ("getattr(item, 'callspec', None) and item.callspec.id", False),
    "keywords": ("sorted(item.keywords), 'parametrize' in item.keywords", False),
    "type": ("isinstance(item, pytest.Function), type(item).__name__", False),
}


@pytest.mark.parametrize("what", LOOKING)
def test_hooks_that_look_see_the_real_thing(project: Project, what: str) -> None:
    """A conftest that reads something off every test reads what a plain run has. Only what needs
    the test's code has the file imported."""
    expression, needs_import = LOOKING[what]
    project.write("test_odd_suite.py", SUITE)
    project.write(
        "conftest.py",
        f"""
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                item.user_properties.append(("seen", repr(({expression})).split(" at 0x")[0]))
        """,
    )
    warm = _twice(project)
    assert bool(warm.imported) is needs_import
    assert len(warm.cases) == 3


def test_syrupy_is_told_names(project: Project) -> None:
    """syrupy asks each test for its names when the run ends, whether it has snapshots or not: no
    file is imported for that."""
    pytest.importorskip("syrupy")
    project.write(
        "test_odd_suite.py",
        """
        import pytest

        def renamed(function):
            def inner():
                function()
            return inner

        @renamed
        def test_inner(): ...

        class TestOfClass:
            @pytest.mark.parametrize("x", [1, 2])
            def test_method(self, x): ...
        """,
    )
    project.write(
        "conftest.py",
        """
        from pathlib import Path

        def pytest_sessionfinish(session):
            from syrupy.location import PyTestLocation

            seen = [vars(PyTestLocation(item)) for item in session.items]
            Path("names.txt").write_text(repr([{**each, "item": ""} for each in seen]))
        """,
    )
    told = []
    for imported in (["test_odd_suite"], []):
        seen = see(project, *WARM, plugins=("syrupy",))
        told.append((project.path / "names.txt").read_text())
        assert seen.imported == imported
    assert told[0] == told[1]
    assert "'inner'" in told[0]


def test_marks_and_fixtures_that_hooks_add_count(project: Project) -> None:
    """A mark that a hook puts on a stand-in acts as on a test: what it changes is run again."""
    project.write("test_odd_suite.py", SUITE)
    project.write(
        "conftest.py",
        """
        import os
        import pytest

        def pytest_collection_modifyitems(items):
            if "SKIP_ALL" in os.environ:
                for item in items:
                    item.add_marker(pytest.mark.skip(reason="asked to"))
        """,
    )
    _twice(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIP_ALL", "1")
        see(project, *WARM).result.assert_outcomes(skipped=3)
    see(project, *WARM).result.assert_outcomes(passed=3)


def test_one_test_that_misses_runs_among_stand_ins(project: Project) -> None:
    """Where a test has to run, its file is imported, with set-up and teardown as ever; its
    neighbours and the other files are replayed."""
    project.write("data.txt", "1")
    project.write("test_odd_other.py", "def test_other(): pass\n")
    project.write(
        "test_odd_suite.py",
        """
        import unittest
        import pytest
        from counter import count

        @pytest.fixture(scope="module")
        def opened():
            count("up")
            yield
            count("down")

        def test_plain():
            count("plain")

        @pytest.mark.cached  # a unit of its own: its neighbours do not rest on what it reads
        def test_reads(opened):
            count("reads")
            assert open("data.txt").read()

        class Case(unittest.TestCase):
            def test_case(self):
                count("case")
        """,
    )
    for selection in ((), ("-k", "reads or case or other")):
        see(project, *WARM, *selection)
    project.counts.unlink(missing_ok=True)
    project.write("data.txt", "2")
    for selection in (("-k", "plain or case"), ("-k", "reads or case or other"), ()):
        warm = see(project, *WARM, *selection)
        assert "test_odd_other" not in warm.imported
        assert warm.imported == (["test_odd_suite"] if "reads" in str(selection) else [])
    assert {name: project.counted(name) for name in ("plain", "case", "reads", "up", "down")} == {
        "plain": 0, "case": 0, "reads": 1, "up": 1, "down": 1
    }  # fmt: skip


def test_a_file_that_others_collect_too(project: Project) -> None:
    """What a plugin makes of a test file, beside its tests, is no other test of it."""
    project.write("data.txt", "1")
    project.write(
        "test_odd_suite.py",
        """
        def test_reads():
            assert open("data.txt").read()
        """,
    )
    project.write(
        "conftest.py",
        """
        import pytest

        class Lines(pytest.File):
            def collect(self):
                yield Line.from_parent(self, name="")

        class Line(pytest.Item):
            def runtest(self):
                pass

        def pytest_collect_file(file_path, parent):
            if file_path.name == "test_odd_suite.py":
                return Lines.from_parent(parent, path=file_path)
        """,
    )
    see(project, *WARM)
    project.write("data.txt", "2")
    warm = see(project, *WARM)
    warm.result.assert_outcomes(passed=2)
    assert warm.imported == ["test_odd_suite"]
    assert "was wrong" not in warm.result.stdout.str()
    assert not see(project, *WARM).imported


def test_marks_of_a_class_act_on_a_test_that_has_to_run(project: Project) -> None:
    """They are the node's above it, and count whether its stand-in or the real one was there."""
    project.write("data.txt", "1")
    project.write(
        "test_odd_marks.py",
        """
        import pathlib
        import warnings
        import pytest

        @pytest.mark.filterwarnings("error")
        class TestStrict:
            def test_reads(self):
                assert pathlib.Path("data.txt").read_text()
                assert warnings.filters[0][0] == "error"

        @pytest.mark.xfail(strict=True)
        class TestFails:
            def test_fails(self):
                assert False

        def test_other():
            pass
        """,
    )
    see(project, *WARM)
    for text, selection in (("1", "fails"), ("2", "reads"), ("3", "other"), ("4", "not other")):
        project.write("data.txt", text)
        warm = see(project, *WARM, "-k", selection)
        assert warm.cases == see(project, *PLAIN, "-k", selection).cases
        assert not warm.outcomes.get("failed")
    assert see(project, *WARM).outcomes == see(project, *PLAIN).outcomes


def test_shuffled_runs_import_nothing(project: Project) -> None:
    """pytest-randomly asks every test for its module's name: it gets the name."""
    project.write("test_odd_suite.py", SUITE)
    project.write("test_odd_other.py", SUITE)
    warm = _twice(project, "-p", "randomly", "--randomly-seed=3", plugins=("randomly",))
    assert not warm.imported


UNSAFE = {
    "environment": "import os\nos.environ['LEFT_BEHIND'] = '1'",
    "path": "import sys\nsys.path.append('/nowhere')",
    "plugins": "pytest_plugins = []",
    "clock": "import datetime, pytest\ntoday = datetime.date.today()",
    "chance": "import random\nchosen = [random.random()]",
    "child": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''], check=True)",
    "text": "print('imported')",
    "logging": "import logging\nlogging.getLogger().setLevel(10)",
    "write": "import os\nwith open('written.txt', 'a') as file:\n    file.write('1')",
}


@pytest.mark.parametrize("what", UNSAFE)
def test_what_leaves_something_behind_is_imported_each_time(project: Project, what: str) -> None:
    """A file whose import does more than define tests is imported in every run."""
    body = UNSAFE[what] + "\n\ndef test_it():\n    pass\n"
    project.write("test_odd_suite.py", body)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LEFT_BEHIND", raising=False)
        for _ in range(3):
            warm = see(project, *WARM, plugins=())
            warm.result.assert_outcomes(passed=1)
            assert warm.imported == ["test_odd_suite"]


CHANGES = {
    "test": ("test_odd_suite.py", "def test_new(): pass\n"),
    "base": ("base.py", "class Base:\n    def test_a(self): pass\n    def test_b(self): pass\n"),
    "conftest": ("conftest.py", "def pytest_generate_tests(metafunc): pass\n"),
    "star": ("starred.py", "def test_star(): pass\n"),
    "data": ("names.txt", "a b c"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_collection_rests_on_is_followed(project: Project, what: str) -> None:
    """The file, the bases of its classes, what it imports with a star, its conftests and what is
    read to make parameters: after a change the tests are those of a plain run."""
    project.write("base.py", "class Base:\n    def test_a(self): pass\n")
    project.write("starred.py", "x = 1\n")
    project.write("names.txt", "a b")
    project.write("conftest.py", "")
    project.write(
        "test_odd_suite.py",
        """
        import pytest
        from base import Base
        from starred import *

        NAMES = open("names.txt").read().split()

        class TestBased(Base):
            pass

        @pytest.mark.parametrize("name", NAMES)
        def test_named(name):
            pass
        """,
    )
    before = see(project, *WARM)
    assert not see(project, *WARM).imported
    name, text = CHANGES[what]
    project.write(name, text)
    warm = see(project, *WARM)
    assert warm.imported == ["test_odd_suite"]
    assert warm.cases == see(project, *PLAIN).cases
    assert warm.cases != before.cases or what == "conftest"
    assert not see(project, *WARM).imported


SKIPS = {
    "import": ('pytest.importorskip("optional")', "optional.py", "x = 1"),
    "file": ('Path("on").read_text() or pytest.skip("is off", allow_module_level=True)', "on", "1"),
}


@pytest.mark.parametrize("how", SKIPS)
def test_a_file_that_skips_itself_is_not_imported(project: Project, how: str) -> None:
    """It says why, and where, as in a plain run, until what it asks for is there."""
    statement, name, text = SKIPS[how]
    project.write("on", "")
    project.write("test_odd_beside.py", "")
    imports = "import test_odd_beside, pytest\nfrom pathlib import Path\n"
    project.write("test_odd_suite.py", f"{imports}{statement}\ndef test_it():\n    pass\n")
    plain = see(project, *PLAIN, "-rs", plugins=())
    assert "test_odd_suite.py:3" in plain.result.stdout.str()
    project.write("test_odd_beside.py", "y = 2\n")
    for cold in (True, False):
        found = see(project, *WARM, "-rs", plugins=())
        assert found.cases == plain.cases
        assert found.outcomes == plain.outcomes == {"skipped": 1}
        found.result.stdout.fnmatch_lines(
            [line for line in plain.result.outlines if line.startswith("SKIPPED")]
        )
        assert bool(found.imported) is cold
    project.write(name, text)
    see(project, *WARM).result.assert_outcomes(passed=1)


def test_what_failed_last_is_collected_among_what_is_stood_in_for(project: Project) -> None:
    """``--lf`` leaves out the others of a file when that is collected, which proves none wrong:
    neither of a file that had not failed before, nor of one that is left out as a whole."""
    project.write("odd_limit.py", "X = 1\n")
    read = "from odd_limit import X\ndef test_b():\n    pass\ndef test_x():\n    assert X == 1\n"
    project.write("test_odd_a.py", "def test_bad():\n    assert 0\ndef test_a():\n    pass\n")
    project.write("test_odd_b.py", read)
    project.write("test_odd_c.py", "import odd_c\nodd_c.X = 1\ndef test_c():\n    pass\n")
    project.write("odd_c.py", "")
    see(project, *WARM)
    see(project, *WARM, "--lf").result.assert_outcomes(failed=1)
    project.write("odd_limit.py", "X = 2\n")
    see(project, *WARM)
    last = see(project, *WARM, "--lf")
    last.result.assert_outcomes(failed=2)
    assert "was wrong" not in last.result.stdout.str()
    see(project, *WARM).result.assert_outcomes(failed=2, passed=3)


def test_real_collection_can_be_asked_for(project: Project) -> None:
    """``taskcache_collect = real`` imports every file; a value that is neither is refused."""
    project.write("test_odd_suite.py", SUITE)
    see(project, *WARM)
    assert not see(project, *WARM).imported
    assert see(project, *WARM, "-o", "taskcache_collect=real").imported
    wrong = run(project, *WARM, "-o", "taskcache_collect=maybe")
    wrong.stderr.fnmatch_lines(["*taskcache_collect*use one of auto, real*"])
