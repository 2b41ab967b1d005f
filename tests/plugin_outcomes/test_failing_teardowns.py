"""The teardown of a fixture that tests share may fail for what any of them did: it is told as an
error of the last one, and none of them is kept."""

from __future__ import annotations

import pytest
from inner_runs import run
from projects import Project

from pytest_taskcache.storage.local.storage import LocalStorage

SHARED = """
    import pytest

    @pytest.fixture(scope={scope!r})
    def errors():
        found = []
        yield found
        assert not found
"""
FIRST = """
    import time
    from counter import count

    class TestFirst:
        def test_first(self, errors):
            count("first")
            time.sleep({seconds})
            errors.append("lost")

        def test_second(self, errors):
            count("second")
"""
LAST = """
    from counter import count

    def test_last():
        count("last")
"""
HAD_IT = {"class": 2, "module": 2, "package": 3, "session": 3}
"""The tests that are not kept: those that had it, and the one that its teardown is told of."""


def _ran(project: Project, *options: str, errors: int = 1, passed: int = 3) -> int:
    """How many tests ran."""
    before = project.counted()
    result = run(project, "--cache-tests=all", *options)
    result.assert_outcomes(passed=passed, errors=errors, deselected=3 - passed)
    return project.counted() - before


@pytest.mark.parametrize("seconds", [0, 0.3], ids=["in one go", "written before"])
@pytest.mark.parametrize("scope", HAD_IT)
def test_who_had_a_fixture_is_not_kept(project: Project, scope: str, seconds: float) -> None:
    """Also where the outcome was written before."""
    project.write("conftest.py", SHARED.format(scope=scope))
    project.write("test_a.py", FIRST.format(seconds=seconds))
    project.write("test_b.py", LAST)
    assert _ran(project) == 3
    for _ in range(2):
        assert _ran(project) == HAD_IT[scope]
    assert _ran(project, "-k", "test_first", passed=1) == 1
    project.write("test_a.py", FIRST.format(seconds=seconds).replace('.append("lost")', ".copy()"))
    _ran(project, errors=0)
    assert _ran(project, errors=0) == 0


def test_what_was_kept_before_is_not_served(project: Project) -> None:
    """That a teardown failed though nothing had changed disproves the older outcomes too."""
    text = SHARED.format(scope="session").replace("errors()", "errors(pytestconfig)")
    unseen = 'not found and "--cache-refresh" not in pytestconfig.invocation_params.args'
    project.write("conftest.py", text.replace("not found", unseen))
    project.write("test_a.py", FIRST.format(seconds=0).replace('.append("lost")', ".copy()"))
    project.write("test_b.py", LAST)
    assert _ran(project, errors=0) == 3
    assert _ran(project, errors=0) == 0
    assert _ran(project, "--cache-refresh") == 3
    assert _ran(project, errors=0) == 3
    assert _ran(project, errors=0) == 0


@pytest.mark.parametrize(
    "failing", ["assert 0\n        yield found", "yield found\n        assert 0"]
)
def test_what_was_kept_in_another_state_stays(project: Project, failing: str) -> None:
    """An edit has the fixture fail, and is undone: of the state before, that disproved nothing."""
    project.write("conftest.py", SHARED.format(scope="module"))
    project.write("test_a.py", FIRST.format(seconds=0).replace('.append("lost")', ".copy()"))
    project.write("test_b.py", LAST)
    assert _ran(project, errors=0) == 3
    project.write("conftest.py", SHARED.format(scope="module").replace("yield found", failing))
    assert run(project, "--cache-tests=all").parseoutcomes()["errors"]
    project.write("conftest.py", SHARED.format(scope="module"))
    assert _ran(project, errors=0) == 0


def test_a_removal_that_fails_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the storage raises, the tests go on."""

    def fail(*args: object) -> None:
        raise RuntimeError("broken")

    project.write("conftest.py", SHARED.format(scope="module"))
    project.write("test_a.py", FIRST.format(seconds=0.3))
    project.write("test_b.py", LAST)
    monkeypatch.setattr(LocalStorage, "remove_records", fail)
    result = run(project, "--cache-tests=all")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*remove records failed*"])


def test_a_teardown_before_a_replay(project: Project) -> None:
    """The last test is replayed, and tells of what was torn down before it."""
    project.write("conftest.py", SHARED.format(scope="session"))
    project.write("test_a.py", FIRST.format(seconds=0).replace('.append("lost")', ".copy()"))
    project.write("test_b.py", LAST)
    assert _ran(project, errors=0) == 3
    project.write("test_a.py", FIRST.format(seconds=0))
    first = _ran(project)
    assert 1 <= first <= 2
    assert _ran(project) == first


WAYS = {
    "teardown_module": """
        FOUND = []

        def test_first():
            FOUND.append(1)

        def test_last(): ...

        def teardown_module():
            assert not FOUND
        """,
    "teardown_class": """
        class TestIt:
            found = []

            def test_first(self):
                self.found.append(1)

            def test_last(self): ...

            @classmethod
            def teardown_class(cls):
                assert not cls.found
        """,
    "tearDownClass": """
        from unittest import TestCase

        class TestIt(TestCase):
            found = []

            def test_first(self):
                self.found.append(1)

            def test_last(self): ...

            @classmethod
            def tearDownClass(cls):
                assert not cls.found
        """,
    "a parameter": """
        import pytest

        @pytest.fixture(scope="module", params=[1, 2])
        def found(request):
            found = []
            yield found
            assert request.param != 1 or not found

        def test_first(found):
            found.append(1)

        def test_last(): ...
        """,
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_tear_down(project: Project, way: str) -> None:
    """Whatever has it torn down, the next run tells of it again."""
    project.write("test_suite.py", WAYS[way])
    for _ in range(3):
        result = run(project, "--cache-tests=all")
        assert result.parseoutcomes()["errors"] == 1


FAILING = {
    "sets the status": "session.exitstatus = 9 if lib.LEFT else exitstatus",
    "exits": "if lib.LEFT: pytest.exit('left something', 9)",
}


@pytest.mark.parametrize("seconds", [0, 0.3], ids=["in one go", "written before"])
@pytest.mark.parametrize("way", FAILING)
def test_a_hook_that_fails_the_session(project: Project, way: str, seconds: float) -> None:
    """What the tests left is there in the next run, too."""
    project.write("lib.py", "LEFT = []")
    project.write(
        "conftest.py",
        f"""
        import lib
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish(session, exitstatus):
            {FAILING[way]}
        """,
    )
    test = f"""
        import lib
        import time
        from counter import count

        def test_it():
            count("body")
            time.sleep({seconds})
            lib.LEFT.append(1)

        def test_last(): ...
        """
    project.write("test_suite.py", test)
    for runs in (1, 2, 3):
        assert run(project, "--cache-tests=all").ret == 9
        assert project.counted() == runs
    project.write("test_suite.py", test.replace(".append(1)", ".copy()"))
    for _ in range(2):
        assert run(project, "--cache-tests=all").ret == 0
        assert project.counted() == 4
