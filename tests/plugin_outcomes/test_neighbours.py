"""Fixtures of neighbours are torn down at the right moment when replayed tests lie between."""

from __future__ import annotations

import pytest
from inner_runs import run
from projects import Project

CONFTEST = """
    import pytest
    from counter import count

    @pytest.fixture(scope="session")
    def session_wide():
        count("session up")
        yield
        count("session down")
"""

MODULE = """
    import pytest
    from counter import count

    @pytest.fixture(scope="module")
    def wide(session_wide):
        count("{name} up")
        yield
        count("{name} down")

    class Test{name}:
        @pytest.fixture(scope="class")
        def narrow(self, wide):
            count("{name} class up")
            yield
            count("{name} class down")

        def test_first(self, narrow):
            count("{name} first")

        @pytest.mark.cached
        def test_last_of_class(self):
            pass

    @pytest.mark.cached
    def test_last():
        pass
"""


def events(project: Project) -> list[str]:
    """What was counted since the last call, in order."""
    lines = project.counts.read_text().splitlines()
    project.counts.unlink()
    return lines


def test_the_order_of_set_up_and_teardown_stays(project: Project) -> None:
    """Class, module and session fixtures come up and go down in the same order, whether the
    tests between are run or replayed."""
    project.write("conftest.py", CONFTEST)
    for name in ("A", "B"):
        project.write(f"test_{name}.py", MODULE.format(name=name))
    run(project).assert_outcomes(passed=6)
    cold = events(project)
    warm_run = run(project, "-v")
    warm_run.assert_outcomes(passed=6)
    assert sum("CACHED" in line for line in warm_run.outlines) == 4
    assert events(project) == cold
    assert cold[-1] == "session down"
    assert cold.index("A down") < cold.index("B up")


def test_a_class_fixture_goes_before_the_next_class(project: Project) -> None:
    """With the last test of a class replayed, its class's teardown comes before the next
    class's set-up."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        class TestOne:
            @classmethod
            def setup_class(cls):
                count("one up")

            @classmethod
            def teardown_class(cls):
                count("one down")

            def test_runs(self):
                pass

            @pytest.mark.cached
            def test_replayed(self):
                pass

        class TestTwo:
            @classmethod
            def setup_class(cls):
                count("two up")

            def test_runs(self):
                pass
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=3)
        assert events(project) == ["one up", "one down", "two up"]


FAILING = """
    import pytest

    @pytest.fixture(scope="module")
    def wide():
        yield
        print("tearing down")
        {raising}

    def test_uses(wide):
        pass

    @pytest.mark.cached
    def test_last():
        pass
"""


def test_a_teardown_that_raises_is_this_items_error(project: Project) -> None:
    """A neighbour's fixture that fails to tear down is an error of the item at whose end it was
    due, replayed or not, and its output is shown."""
    project.write("test_suite.py", FAILING.format(raising="raise OSError('disk gone')"))
    project.write("test_then.py", "def test_then():\n    pass\n")
    for _ in range(3):
        result = run(project)
        result.assert_outcomes(passed=3, errors=1)
        result.stdout.fnmatch_lines(
            ["*ERROR at teardown of test_last*", "*disk gone*", "*tearing down*"]
        )


@pytest.mark.parametrize(
    ("raising", "status"),
    [
        ("raise KeyboardInterrupt", pytest.ExitCode.INTERRUPTED),
        ("pytest.exit('enough', returncode=9)", 9),
    ],
)
def test_an_end_of_the_run_passes_through(
    project: Project, raising: str, status: pytest.ExitCode | int
) -> None:
    """An interrupt or ``pytest.exit`` in such a teardown ends the run, as ever."""
    project.write("conftest.py", "import os\n")
    text = FAILING.format(
        raising="import os\n        if os.path.exists('end'):\n            " + raising
    )
    project.write("test_suite.py", text)
    project.write(
        "test_then.py", "from counter import count\ndef test_then():\n    count('then')\n"
    )
    run(project).assert_outcomes(passed=3)
    project.write("end", "")
    # A process of its own: an interrupt would be passed on to the outer run.
    result = project.run("-v")
    assert result.ret == status
    assert project.counted("then") == 1


def test_the_first_module_is_not_left_behind(project: Project) -> None:
    """A whole module of replayed tests between two that run does not disturb them."""
    project.write("conftest.py", CONFTEST)
    for name in ("a", "c"):
        project.write(
            f"test_{name}.py",
            f"""
            import pytest
            from counter import count

            @pytest.fixture(scope="module", autouse=True)
            def wide(session_wide):
                count("{name} up")
                yield
                count("{name} down")

            def test_it():
                pass
            """,
        )
    project.write(
        "test_b.py",
        """
        import pytest
        pytestmark = pytest.mark.cached

        @pytest.mark.parametrize("n", range(3))
        def test_it(n):
            pass
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=5)
        assert events(project) == [
            "session up", "a up", "a down", "c up", "c down", "session down",
        ]  # fmt: skip


def test_stopping_early_tears_everything_down(project: Project) -> None:
    """With ``-x``, fixtures still up are torn down at the end, and their errors are seen."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture(scope="module", autouse=True)
        def wide():
            yield
            count("down")

        @pytest.mark.cached
        def test_a():
            pass

        def test_b():
            assert 0

        @pytest.mark.cached
        def test_c():
            count("c")
        """,
    )
    for _ in range(2):
        run(project, "-x").assert_outcomes(passed=1, failed=1)
    assert events(project) == ["down", "down"]
