"""What is not cached, or would lose something: the test goes on as it would, and it is said."""

from __future__ import annotations

import pytest
from nested_runs import cold_then_warm, run
from projects import Project


@pytest.mark.parametrize("scope", ["function", "module"])
def test_a_fixture_that_raises_is_never_cached(project: Project, scope: str) -> None:
    """Its error is an error each time, and a value once it works is computed then."""
    project.write("given.py", "WORKS = False\n")
    project.write(
        "test_suite.py",
        f"""
        from counter import count
        from given import WORKS
        from pytest_taskcache import TASK_SOURCE, cached_fixture

        @cached_fixture(scope={scope!r}, policy=TASK_SOURCE)
        def data():
            count("body")
            if not WORKS:
                raise ValueError("no")
            return 1

        def test_it(data):
            assert data == 1
        """,
    )
    run(project).assert_outcomes(errors=1)
    run(project).assert_outcomes(errors=1)
    project.write("given.py", "WORKS = True\n")
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 3
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 3


def test_a_fixture_that_skips_is_never_cached(project: Project) -> None:
    """The skip is decided anew in each run."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            pytest.skip("not here")

        def test_it(data):
            pass
        """,
    )
    run(project).assert_outcomes(skipped=1)
    run(project).assert_outcomes(skipped=1)
    assert project.counted() == 2


UNSTORABLE = {
    "lock": ("threading.Lock()", "not data.locked()"),
    "generator": ("(n for n in [1, 2])", "list(data) == [1, 2]"),
    "local class": ("type('Local', (), {'x': 1})()", "data.x == 1"),
}


@pytest.mark.parametrize("what", UNSTORABLE)
def test_a_value_that_cannot_be_stored_is_counted(project: Project, what: str) -> None:
    """The test gets the value itself, untouched; the summary says that it was not kept."""
    value, check = UNSTORABLE[what]
    project.write(
        "test_suite.py",
        f"""
        import threading
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            return {value}

        def test_it(data):
            assert {check}
        """,
    )
    run(project).assert_outcomes(passed=1)
    second = run(project)
    second.assert_outcomes(passed=1)
    assert project.counted() == 2
    second.stdout.fnmatch_lines(["taskcache: *value cannot be serialized*"])


def test_a_generator_of_a_cached_function_is_no_value_of_a_fixture(project: Project) -> None:
    """A fixture that returns a cached generator function's generator gets a new one each time."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @cached
        def numbers():
            count("body")
            yield 1
            yield 2

        @pytest.fixture
        def data():
            return numbers()

        def test_a(data):
            assert list(data) == [1, 2]

        def test_b(data):
            assert list(data) == [1, 2]
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


@pytest.mark.parametrize(
    "order",
    ["@pytest.mark.cached\n@pytest.fixture", "@pytest.fixture\n@pytest.mark.cached"],
    ids=["above", "below"],
)
def test_a_mark_on_a_fixture_is_an_error(project: Project, order: str) -> None:
    """``@pytest.mark.cached`` is for tests: on a fixture it would do nothing, and is refused."""
    project.write(
        "test_suite.py",
        f"""
import pytest
import pytest_taskcache.decorator

{order}
def data():
    return 1

def test_it(data):
    assert data == 1
""",
    )
    result = run(project, "-W", "error")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*arks*fixture*"])


EFFECTS = {
    "file": ("", "pathlib.Path('made').write_text('x')", "wrote made"),
    "appended": ("", "open('log', 'a').close()", "wrote log"),
    "directory": ("", "pathlib.Path('made').mkdir(exist_ok=True)", "wrote made"),
    "process": ("", "subprocess.run([sys.executable, '-c', ''])", "subprocess"),
    "temporary": ("tmp_path", "(tmp_path / 'made').write_text('x')", "wrote <tmp>/*made"),
}


@pytest.mark.parametrize("what", EFFECTS)
def test_none_with_effects_warns(project: Project, what: str) -> None:
    """A fixture that returns nothing but wrote files or started processes: on a hit that would
    be lost, so a line says so."""
    argument, deed, told = EFFECTS[what]
    project.write(
        "test_suite.py",
        f"""
        import pathlib
        import subprocess
        import sys
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data({argument}):
            {deed}

        def test_it(data):
            assert data is None
        """,
    )
    result = run(project)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*'data' returned None but had effects ({told}*"])


def test_none_without_effects_does_not_warn(project: Project) -> None:
    """Reading is no effect."""
    project.write("given.txt", "x")
    project.write(
        "test_suite.py",
        """
        import pathlib
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            assert pathlib.Path("given.txt").read_text() == "x"

        def test_it(data):
            assert data is None
        """,
    )
    result = run(project)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*had effects*")


CHANGES = {
    "class": "request.cls.made = 1",
    "instance": "request.instance.made = 1",
    "module": "request.module.made = 1",
    "mark": "request.node.add_marker('slow')",
    "applied": "request.applymarker('slow')",
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_fixture_sets_on_its_test_is_never_lost(project: Project, what: str) -> None:
    """A fixture that sets something on its class, instance, module or node acts by that: it runs
    each time, and the summary says why."""
    project.write("pytest.ini", "[pytest]\nmarkers = slow\n")
    project.write(
        "test_suite.py",
        f"""
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(request):
            count("body")
            request.node.name
            {CHANGES[what]}

        class TestIt:
            def test_it(self, data, request):
                seen = hasattr(type(self), "made") or hasattr(self, "made") or "made" in globals()
                assert seen or request.node.get_closest_marker("slow")
        """,
    )
    run(project).assert_outcomes(passed=1)
    second = run(project)
    second.assert_outcomes(passed=1)
    assert project.counted() == 2
    second.stdout.fnmatch_lines(["taskcache: *changed the test it was made for*"])


def test_a_value_is_stored_as_it_was_before_the_test_changed_it(project: Project) -> None:
    """What the first test did to its value is not in the second run's."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="module")
        def data():
            count("body")
            return {"a": []}

        def test_it(data):
            assert data == {"a": []}
            data["a"].append(1)
            data["b"] = 2
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


def test_setup_plan_neither_runs_nor_caches(project: Project) -> None:
    """``--setup-plan`` shows what would be set up; it touches nothing, and spoils nothing."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="module")
        def data():
            count("body")
            return 1

        def test_it(data):
            assert data == 1
        """,
    )
    plan = run(project, "--setup-plan")
    assert plan.ret == 0
    plan.stdout.fnmatch_lines(["*SETUP    M data*", "*TEARDOWN M data*"])
    assert project.counted() == 0
    cold_then_warm(project, computed=1, passed=1)
    run(project, "--setup-plan")
    shown = run(project, "--setup-show")
    shown.assert_outcomes(passed=1)
    shown.stdout.fnmatch_lines(["*SETUP    M data*", "*TEARDOWN M data*"])
    assert project.counted() == 1


def test_setup_only_sets_up_and_commits_nothing(project: Project) -> None:
    """``--setup-only`` runs no test, so nothing passed and nothing is committed; what is cached
    already is used."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            return 1

        def test_it(data):
            assert data == 1
        """,
    )
    assert run(project, "--setup-only").ret == 0
    assert project.counted() == 1
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 2
    assert run(project, "--setup-only").ret == 0
    assert project.counted() == 2


def test_listings_show_the_docstring(project: Project) -> None:
    """``--fixtures`` and ``--fixtures-per-test`` show what the author wrote."""
    project.write(
        "test_suite.py",
        '''
        import pytest
        from pytest_taskcache import cached, cached_fixture

        @cached_fixture
        def one():
            """The first."""

        @cached
        @pytest.fixture
        def two():
            """The second."""

        @pytest.fixture
        @cached
        def three():
            """The third."""

        def test_it(one, two, three):
            pass
        ''',
    )
    for option in ("--fixtures", "--fixtures-per-test"):
        listing = run(project, option)
        assert listing.ret == 0
        for text in ("The first.", "The second.", "The third."):
            assert text in listing.stdout.str()


def test_a_cached_fixture_called_directly_is_pytests_error(project: Project) -> None:
    """Calling a fixture is an error as without the plugin."""
    project.write(
        "test_suite.py",
        """
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            return 1

        def test_it():
            data()
        """,
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*Fixture "data" called directly*'])


def test_switched_off_everything_runs(project: Project) -> None:
    """``--cache-mode=off``: as if the fixtures were plain, also inside another run."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached, cached_fixture

        @cached
        def number():
            count("function")
            return 1

        @pytest.fixture
        @cached
        def below():
            count("below")
            yield number()
            count("down")

        @cached_fixture
        def data():
            count("data")
            return number()

        def test_it(data, below):
            assert data == below == 1
        """,
    )
    run(project).assert_outcomes(passed=1)
    before = project.counted()
    run(project, "--cache-mode=off").assert_outcomes(passed=1)
    assert project.counted() == before + 5
