"""What surrounds a test is part of its key where it can change its end, and only there."""

from __future__ import annotations

import itertools
import sys

import pytest
from inner_runs import run
from projects import Project

SUITE = """
    import pytest
    from counter import count

    @pytest.mark.cached
    def test_it():
        count("body")
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with one cached test that has been stored."""
    project.write("test_suite.py", SUITE)
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 1
    return project


@pytest.mark.parametrize(
    "args",
    [
        ["-v"], ["-q"], ["-x"], ["-k", "test_it"], ["--durations=3"], ["--junitxml=out.xml"],
        ["--tb=short"], ["--color=yes"], ["--maxfail=3"], ["-rA"], ["--lf"], ["--ff"],
        ["--strict-config"], ["-m", "cached"], ["--deselect=test_other.py"], ["-l"],
        ["--no-header"], ["--no-summary"], ["test_suite.py"], ["test_suite.py::test_it"],
        ["--rootdir=."], ["-c", "pytest.ini"], ["--doctest-modules"], ["--basetemp=tmp"],
        ["-o", "console_output_style=count"], ["-n", "0"], ["--ignore=other"],
        ["--cache-tests=all"], ["-o", "taskcache_max_size=1GB"], ["-p", "no:junitxml"],
        ["-p", "no:pastebin"], ["--full-trace"], ["--capture=fd"], ["--show-capture=no"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_neutral_options_keep_the_hit(suite: Project, args: list[str]) -> None:
    """Options that select, order or show tests leave outcomes as they are."""
    if "--strict-config" in args:
        suite.write("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    run(suite, *args).assert_outcomes(passed=1)
    assert suite.counted() == 1


@pytest.mark.parametrize(
    "args",
    [
        ["-W", "error"], ["-o", "xfail_strict=true"], ["-p", "extra_plugin"],
        ["--strict-markers"], ["--import-mode=importlib"], ["--assert=plain"],
        ["-o", "asyncio_mode=auto"], ["--asyncio-mode=auto"], ["-p", "no:warnings"],
        ["--log-level=DEBUG"], ["-p", "no:logging"], ["--runxfail"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_matter_run_the_test(suite: Project, args: list[str]) -> None:
    """Options that can change how a test ends are part of its key: without them the first
    outcome is there again."""
    suite.write("extra_plugin.py", "def pytest_runtest_setup(item):\n    item.extra = 1\n")
    suite.pytester.syspathinsert()
    run(suite, *args).assert_outcomes(passed=1)
    assert suite.counted() == 2
    run(suite, *args).assert_outcomes(passed=1)
    run(suite).assert_outcomes(passed=1)
    assert suite.counted() == 2


def test_ini_settings_that_matter_run_the_test(suite: Project) -> None:
    """A changed ``filterwarnings`` runs the test, a changed ``addopts = -v`` or a comment does
    not."""
    text = (suite.path / "pytest.ini").read_text()
    suite.write("pytest.ini", text + "# a comment\naddopts = -v\ntestpaths = .\n")
    run(suite)
    assert suite.counted() == 1
    suite.write("pytest.ini", text + "filterwarnings = error\n")
    run(suite)
    assert suite.counted() == 2
    suite.write("pytest.ini", text)
    run(suite)
    assert suite.counted() == 2


def test_conftests(suite: Project) -> None:
    """A comment in the conftest keeps the hit; a hook, an autouse fixture, or a conftest of a
    directory below that applies runs the test; one of another directory does not."""
    suite.write("conftest.py", "VALUE = 1\n")
    run(suite)
    assert suite.counted() == 2
    suite.write("conftest.py", "# A comment.\nVALUE = 1\n")
    run(suite)
    assert suite.counted() == 2
    suite.write("conftest.py", "VALUE = 1\ndef pytest_runtest_setup(item):\n    pass\n")
    run(suite)
    assert suite.counted() == 3
    suite.write("other/conftest.py", "VALUE = 1\n")
    suite.write("other/test_other.py", "def test_other():\n    pass\n")
    run(suite)
    assert suite.counted() == 3
    suite.write(
        "conftest.py",
        """
        import pytest

        VALUE = 1

        def pytest_runtest_setup(item):
            pass

        @pytest.fixture(autouse=True)
        def around():
            yield
        """,
    )
    run(suite)
    assert suite.counted() == 4


def test_a_closer_fixture_overrides(project: Project) -> None:
    """A fixture in a closer conftest that overrides another runs the tests that use it."""
    project.write(
        "conftest.py",
        """
        import pytest

        @pytest.fixture
        def data():
            return 1
        """,
    )
    project.write(
        "sub/test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        def test_it(data):
            count("body")
            assert data == 1
        """,
    )
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    run(project)
    run(project)
    assert project.counted() == 1
    project.write("sub/conftest.py", "import pytest\n@pytest.fixture\ndef data():\n    return 2\n")
    run(project).assert_outcomes(failed=1)


def test_what_conftest_hooks_use_is_a_dependency(project: Project) -> None:
    """A helper that a conftest's hook calls while pytest starts is part of every test's key."""
    project.write("pytest.ini", "[pytest]\npythonpath = .\n")
    project.write("helper.py", "def shade():\n    return 'red'\n")
    project.write(
        "conftest.py",
        """
        import builtins
        from helper import shade

        def pytest_configure(config):
            builtins.SHADE = shade()
        """,
    )
    project.write(
        "test_suite.py",
        """
        import builtins
        import pytest
        from counter import count

        @pytest.mark.cached
        def test_it():
            count("body")
            assert builtins.SHADE == "red"
        """,
    )
    run(project).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 1
    project.write("helper.py", "def shade():\n    return 'blue'\n")
    run(project).assert_outcomes(failed=1)


def test_marks_count_by_their_arguments(project: Project) -> None:
    """A ``usefixtures`` or a mark of one's own with other arguments runs the test; a case more
    in ``parametrize`` leaves the others."""
    source = """
        import pytest
        from counter import count

        @pytest.mark.cached
        @pytest.mark.own(1)
        @pytest.mark.parametrize("n", [1, 2])
        def test_it(n):
            count("body")
        """
    project.write("pytest.ini", "[pytest]\nmarkers = own\n")
    project.write("test_suite.py", source)
    run(project)
    run(project)
    assert project.counted() == 2
    project.write("test_suite.py", source.replace("own(1)", "own(2)"))
    run(project)
    assert project.counted() == 4


def test_shuffled_runs_hit(project: Project) -> None:
    """With pytest-randomly another seed and order replay all tests but those that drew from
    ``random``."""
    pytest.importorskip("pytest_randomly")
    project.write(
        "test_suite.py",
        """
        import random
        import pytest
        from counter import count

        pytestmark = pytest.mark.cached

        @pytest.mark.parametrize("n", range(5))
        def test_plain(n):
            count("plain")

        def test_drawn():
            count("drawn")
            assert random.random() < 2
        """,
    )
    for seed in (1, 2, 3, 1):
        result = run(project, f"--randomly-seed={seed}", plugins=("randomly",))
        result.assert_outcomes(passed=6)
    assert project.counted("plain") == 5
    assert project.counted("drawn") == 3


@pytest.mark.parametrize("name", ["randomly", "pytest_randomly"])
def test_seed_counts_for_all_users_of_a_fixture_that_drew(project: Project, name: str) -> None:
    """The last one, too, whose end tears the fixture down; whichever name ``-p`` loads it by."""
    pytest.importorskip("pytest_randomly")
    project.write(
        "test_suite.py",
        """
        import random
        import pytest
        from counter import count

        pytestmark = pytest.mark.cached

        @pytest.fixture(scope="module")
        def drawn():
            return random.random()

        @pytest.mark.parametrize("n", range(3))
        def test_drawn(drawn, n):
            count("drawn")
        """,
    )
    for seed in (1, 2, 1):
        names = ("-p", "pytest_taskcache.plugin", "-p", name)
        result = run(project, "--disable-plugin-autoload", *names, f"--randomly-seed={seed}")
        result.assert_outcomes(passed=3)
    assert project.counted("drawn") == 6


def test_a_parameter_of_many_tests_is_digested_once(project: Project) -> None:
    """And not at all where an error of collection ends the run before its tests."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        class Thing:
            def __taskcache_key__(self):
                count("digest")
                return 1

        @pytest.mark.parametrize("n", [1, 2, 3])
        @pytest.mark.parametrize("thing", [Thing()])
        def test_it(n, thing):
            count("body")
        """,
    )
    broken = project.write("test_broken.py", "raise RuntimeError")
    run(project, "--cache-tests=all").assert_outcomes(errors=1)
    assert (project.counted("body"), project.counted("digest")) == (0, 0)
    broken.unlink()
    run(project, "--cache-tests=all").assert_outcomes(passed=3)
    assert (project.counted("body"), project.counted("digest")) == (3, 1)
    broken = project.write("test_broken.py", "raise RuntimeError")
    found = run(project, "--cache-tests=all", "--continue-on-collection-errors")
    found.assert_outcomes(passed=3, errors=1)
    assert project.counted("body") == 3


def test_a_miss_names_which_parameter_or_mark_differs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no file tells is another one in each run: the miss says which of it is."""
    monkeypatch.setattr(sys, "numbers", itertools.count(), raising=False)
    project.write(
        "test_suite.py",
        """
        import sys, pytest

        NUMBER = next(sys.numbers)

        def make(number):
            def test():
                assert number is not None
            return test

        test_made = make(NUMBER)

        @pytest.mark.parametrize("same, other", [pytest.param(1, NUMBER, id="it")])
        def test_parameter(same, other):
            pass

        @pytest.mark.own(NUMBER)
        def test_mark():
            pass
        """,
    )
    project.write("pytest.ini", "[pytest]\nmarkers = own\ntaskcache_collect = real\n")
    run(project, "--cache-tests=all")
    told = run(project, "--cache-tests=all", "-vv").stdout.str()
    assert "test_made: closure changed: number\n" in told
    assert "test_parameter[it]: new inputs (other)\n" in told
    assert "test_mark: mark changed: arguments\n" in told
