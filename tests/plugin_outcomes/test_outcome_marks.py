"""``@pytest.mark.cached`` on functions, classes and modules, and everything it can be told."""

from __future__ import annotations

import pytest
from inner_runs import line_of, run
from projects import Project

BODY = """
    import os
    import pytest
    from datetime import timedelta
    from counter import count
    from pytest_taskcache import ENV, FILES
"""


def suite(project: Project, text: str) -> None:
    """Writes the module of tests below the imports they need."""
    import textwrap

    project.write("test_suite.py", textwrap.dedent(BODY) + textwrap.dedent(text))


def test_a_marked_test_runs_once(project: Project) -> None:
    """The marked test is replayed; its unmarked neighbour runs each time."""
    suite(
        project,
        """
        @pytest.mark.cached
        def test_marked():
            count("marked")

        def test_plain():
            count("plain")
        """,
    )
    for _ in range(3):
        run(project).assert_outcomes(passed=2)
    assert project.counted("marked") == 1
    assert project.counted("plain") == 3


def test_a_mark_on_a_class_covers_its_tests(project: Project) -> None:
    """Each test of a marked class is cached, inherited ones too; one that opts out is not."""
    suite(
        project,
        """
        class Base:
            def test_inherited(self):
                count("inherited")

        @pytest.mark.cached
        class TestIt(Base):
            def test_own(self):
                count("own")

            @pytest.mark.cached(False)
            def test_out(self):
                count("out")
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=3)
    assert (project.counted("inherited"), project.counted("own")) == (1, 1)
    assert project.counted("out") == 2


def test_a_mark_on_a_module_covers_its_tests(project: Project) -> None:
    """``pytestmark`` marks a whole module, as with any mark."""
    suite(
        project,
        """
        pytestmark = [pytest.mark.cached]

        def test_one():
            count("one")

        class TestTwo:
            def test_two(self):
                count("two")
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert project.counted() == 2


@pytest.mark.parametrize("mark", ["policy=ENV('SHADE')", "ENV('SHADE')"])
def test_a_declared_variable_is_part_of_the_key(
    project: Project, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """``cached(ENV(...))`` runs the test again when the variable changes, and hits again when it
    changes back."""
    suite(
        project,
        f"""
        @pytest.mark.cached({mark})
        def test_it():
            count("body")
        """,
    )
    for shade, expected in (("red", 1), ("red", 1), ("blue", 2), ("red", 2)):
        monkeypatch.setenv("SHADE", shade)
        run(project).assert_outcomes(passed=1)
        assert project.counted() == expected


def test_declared_files_are_part_of_the_key(project: Project) -> None:
    """``cached(FILES(...))`` runs the test again when a file it names changes or appears."""
    project.write("data/a.csv", "1")
    suite(
        project,
        """
        @pytest.mark.cached(FILES("data/*.csv"))
        def test_it():
            count("body")
        """,
    )
    run(project)
    run(project)
    assert project.counted() == 1
    project.write("data/a.csv", "2")
    run(project)
    run(project)
    assert project.counted() == 2
    project.write("data/b.csv", "3")
    run(project)
    run(project)
    assert project.counted() == 3


def test_an_outcome_expires(project: Project) -> None:
    """After its expiration the test runs again."""
    suite(
        project,
        """
        @pytest.mark.cached(expiration=timedelta(microseconds=1))
        def test_it():
            count("body")
        """,
    )
    run(project)
    run(project)
    assert project.counted() == 2


def test_outcomes_expire_by_the_setting(project: Project) -> None:
    """``taskcache_tests_max_age`` is the expiration of outcomes that name none."""
    suite(
        project,
        """
        @pytest.mark.cached
        def test_it():
            count("body")
        """,
    )
    for age in ("0.000001s", "0.000001s", "7d", "7d", "never", "never"):
        run(project, "-o", f"taskcache_tests_max_age={age}").assert_outcomes(passed=1)
    assert project.counted() == 3  # what never expires is not what was stored to expire


@pytest.mark.parametrize("allow", ["allow='subprocess'", "allow={'subprocess'}", ""])
def test_a_child_process_must_be_allowed(project: Project, allow: str) -> None:
    """A test that runs a subprocess is not cached unless the mark allows it, and the line says
    so."""
    suite(
        project,
        f"""
        import subprocess, sys

        @pytest.mark.cached({allow})
        def test_it():
            count("body")
            subprocess.run([sys.executable, "-c", "0"], check=True)
        """,
    )
    run(project).assert_outcomes(passed=1)
    second = run(project)
    second.assert_outcomes(passed=1)
    assert project.counted() == (1 if allow else 2)
    if not allow:
        assert "used subprocess" in line_of(second)


def test_the_closest_mark_wins(project: Project) -> None:
    """A test's own mark is asked, not its class's."""
    suite(
        project,
        """
        @pytest.mark.cached(False)
        class TestIt:
            @pytest.mark.cached
            def test_in(self):
                count("in")

            def test_out(self):
                count("out")
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(passed=2)
    assert (project.counted("in"), project.counted("out")) == (1, 2)


def test_all_and_none(project: Project) -> None:
    """``all`` caches what is not opted out; ``none`` nothing, marked or not."""
    suite(
        project,
        """
        @pytest.mark.cached
        def test_marked():
            count("marked")

        def test_plain():
            count("plain")
        """,
    )
    for _ in range(2):
        run(project, "--cache-tests=all").assert_outcomes(passed=2)
    assert project.counted() == 2
    run(project, "--cache-tests=none").assert_outcomes(passed=2)
    assert project.counted() == 4
    run(project, "-o", "taskcache_tests=all").assert_outcomes(passed=2)
    assert project.counted() == 4


def test_a_mark_for_fixtures_caches_no_outcome(project: Project) -> None:
    """``cached(fixtures=[...])`` names fixtures to cache, and leaves the test alone."""
    suite(
        project,
        """
        @pytest.fixture(scope="module")
        def data():
            count("fixture")
            return 1

        @pytest.mark.cached(fixtures=["data"])
        def test_it(data):
            count("body")
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert (project.counted("fixture"), project.counted("body")) == (1, 2)


@pytest.mark.parametrize(
    ("mark", "remedy"),
    [
        ("expiraton=3", "*test_it*expiraton*use one of*expiration*"),
        ("commit='eager'", "*commit*use one of*"),
        ("expiration=3", "*expiration: 3 is no duration*timedelta*"),
        ("'TZ'", "*'TZ'*no policy*ENV*"),
        ("ENV('A'), ENV('B')", "*one policy*+*"),
        ("ENV('A'), policy=ENV('B')", "*policy*twice*"),
        ("key='a', key_fn=print", "*key and key_fn*only one*"),
        ("fixtures='data'", "*fixtures*list*"),
    ],
)
def test_a_mark_that_cannot_work_stops_with_the_remedy(
    project: Project, mark: str, remedy: str
) -> None:
    """A misspelt or contradictory mark is a usage error before any test runs."""
    suite(
        project,
        f"""
        @pytest.mark.cached({mark})
        def test_it():
            count("body")
        """,
    )
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([remedy])
    assert project.counted() == 0


def test_a_test_without_persistence_runs_each_time(project: Project) -> None:
    """``refresh=True`` overwrites each time; ``persist=False`` switches the cache off for it."""
    suite(
        project,
        """
        @pytest.mark.cached(refresh=True)
        def test_refreshed():
            count("refreshed")

        @pytest.mark.cached(persist=False)
        def test_off():
            count("off")
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert (project.counted("refreshed"), project.counted("off")) == (2, 2)


def test_a_validator_is_asked(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validator that refuses the record has the test run again."""
    suite(
        project,
        """
        def fresh(context, record):
            return os.environ.get("FRESH") == "yes"

        @pytest.mark.cached(validator=fresh)
        def test_it():
            count("body")
        """,
    )
    run(project)
    run(project)
    assert project.counted() == 2
    monkeypatch.setenv("FRESH", "yes")
    run(project)
    assert project.counted() == 2
