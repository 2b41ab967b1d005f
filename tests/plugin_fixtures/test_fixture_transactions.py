"""What a test's fate means for the fixtures it used: committed by a pass, and by nothing else."""

from __future__ import annotations

import pytest
from nested_runs import cold_then_warm, run
from projects import Project

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two_workers"])


@WORKERS
def test_a_failing_first_user_does_not_spoil_the_fixture(
    project: Project, workers: tuple[str, ...]
) -> None:
    """``consumers="any"``: the value is alive and the second user passes with it, so it is
    committed."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session")
        def data():
            count("body")
            return [1]

        def test_a(data):
            assert data == 0

        def test_b(data):
            assert data == [1]
        """,
    )
    run(project, *workers).assert_outcomes(passed=1, failed=1)
    computed = project.counted()
    assert computed == 1 or workers  # the other worker may come when the first one is done
    run(project, *workers).assert_outcomes(passed=1, failed=1)
    assert project.counted() == computed


@pytest.mark.parametrize("scope", ["function", "session"])
def test_nothing_is_committed_without_a_passing_user(project: Project, scope: str) -> None:
    """Failures, errors in another fixture, errors in a teardown, xfails and skips are no pass."""
    project.write(
        "test_suite.py",
        f"""
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope={scope!r})
        def data():
            count("body")
            return [1]

        @pytest.fixture
        def broken(data):
            raise ValueError

        @pytest.fixture
        def breaks(data):
            yield
            raise ValueError

        def test_fails(data):
            assert data == 0

        def test_cannot_begin(broken):
            pass

        def test_cannot_end(breaks):
            pass

        @pytest.mark.xfail(strict=False)
        def test_xfails(data):
            assert data == 0

        @pytest.mark.xfail(strict=False)
        def test_xpasses(data):
            assert data == [1]

        def test_skips(data):
            pytest.skip("late")
        """,
    )
    each = 6 if scope == "function" else 1
    outcomes = {"passed": 1, "failed": 1, "errors": 2, "xfailed": 1, "xpassed": 1, "skipped": 1}
    run(project).assert_outcomes(**outcomes)
    assert project.counted() == each
    run(project).assert_outcomes(**outcomes)
    assert project.counted() == 2 * each


ALL = """
    import pathlib
    import pytest
    from counter import count
    from pytest_taskcache import cached, cached_fixture

    @cached_fixture(scope="module", consumers="all")
    def data():
        count("data")
        return [1]

    @cached
    def derived(data):
        count("derived")
        return data + [2]

    @cached_fixture
    def mine(data):
        count("mine")
        return data + [3]

    def test_a(data, mine):
        assert derived(data) == [1, 2]

    def test_b(data):
        assert not pathlib.Path("fail").exists()
"""


def test_consumers_all_waits_for_every_user(project: Project) -> None:
    """With ``consumers="all"`` one failing user keeps the value, and what was made of it by
    tests that passed, from being committed; when all pass, all is."""
    project.write("test_suite.py", ALL)
    project.write("fail", "")
    run(project).assert_outcomes(passed=1, failed=1)
    run(project).assert_outcomes(passed=1, failed=1)
    assert (project.counted("data"), project.counted("mine")) == (2, 2)
    (project.path / "fail").unlink()
    run(project).assert_outcomes(passed=2)
    assert (project.counted("data"), project.counted("mine")) == (3, 3)
    counted = project.counted()
    run(project).assert_outcomes(passed=2)
    assert project.counted() == counted


def test_consumers_all_commits_at_the_end_of_the_scope(project: Project) -> None:
    """Another module's test finds the value committed, though this run is not over."""
    project.write("test_a.py", ALL)
    project.write(
        "test_b.py",
        """
        import os
        from test_a import data, mine

        def test_it(data, mine):
            os._exit(3)
        """,
    )
    project.run()
    counted = project.counted("data"), project.counted("mine")
    (project.path / "test_b.py").unlink()
    run(project).assert_outcomes(passed=2)
    assert (project.counted("data"), project.counted("mine")) == counted


def test_functions_called_in_a_plain_session_fixture_commit_with_its_first_passing_user(
    project: Project,
) -> None:
    """A cached function belongs to the fixture that called it, and so to the tests that use it."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @cached
        def number(n):
            count("function")
            return n

        @pytest.fixture(scope="session")
        def data():
            return number(5)

        def test_a(data):
            assert data == 0

        def test_b(data):
            assert data == 5
        """,
    )
    run(project).assert_outcomes(passed=1, failed=1)
    computed = project.counted()
    assert computed == 1
    run(project).assert_outcomes(passed=1, failed=1)
    assert project.counted() == computed


def test_a_lazy_call_in_a_session_fixture_commits_with_the_test_that_caused_it(
    project: Project,
) -> None:
    """A fixture that hands out a function: what is computed through it in a passing test stays,
    in a failing one goes."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @cached
        def number(n):
            count(f"number {n}")
            return n

        @pytest.fixture(scope="session")
        def get():
            return number

        def test_a(get):
            assert get(1) == 0

        def test_b(get):
            assert get(2) == 2
        """,
    )
    run(project).assert_outcomes(passed=1, failed=1)
    run(project).assert_outcomes(passed=1, failed=1)
    assert (project.counted("number 1"), project.counted("number 2")) == (2, 1)


def test_the_old_instance_of_a_parametrized_fixture_ends_in_the_next_ones_set_up(
    project: Project,
) -> None:
    """Each parameter's value commits by its own users: the failing one's does not, the passing
    ones' do."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached, cached_fixture
        import pytest

        @cached
        def part(n):
            count(f"part {n}")
            return n

        @cached_fixture(scope="session", params=[1, 2, 3])
        def data(request):
            count(f"data {request.param}")
            return part(request.param)

        @pytest.fixture(scope="session")
        def plain(data):
            return data

        def test_it(plain):
            assert plain != 2
        """,
    )
    run(project).assert_outcomes(passed=2, failed=1)
    run(project).assert_outcomes(passed=2, failed=1)
    counts = [project.counted(f"{what} {n}") for what in ("data", "part") for n in (1, 2, 3)]
    assert counts == [1, 2, 1, 1, 2, 1]


RETRY = """
    from counter import count
    from pytest_taskcache import cached, cached_fixture
    import pathlib

    @cached(OPTIONS)
    def function():
        count("function")
        return 1

    @cached_fixture(OPTIONS)
    def data():
        count("data")
        return [1]

    def test_it(data):
        assert data == [1]
        data.append(2)
        assert function() == 1
        count("attempt")
        attempts = pathlib.Path("{counts}").read_text().splitlines().count("attempt")
        assert attempts >= 3
"""


def test_a_rerun_does_not_get_what_the_failed_attempt_staged(project: Project) -> None:
    """``--reruns 2``: each attempt computes anew, and the one that passes commits."""
    suite = RETRY.replace("OPTIONS", "").replace("{counts}", str(project.counts))
    project.write("test_suite.py", suite)
    run(project, "--reruns=2").assert_outcomes(passed=1)
    assert (project.counted("data"), project.counted("function")) == (3, 3)
    run(project).assert_outcomes(passed=1)
    assert (project.counted("data"), project.counted("function")) == (3, 3)


def test_a_retry_of_pytest_retry_commits_when_it_passes(project: Project) -> None:
    """Which reports its call and its teardown, and no set-up: as with ``--reruns``, the attempt
    that passes commits, and only what it computed itself."""
    pytest.importorskip("pytest_retry")
    suite = RETRY.replace("OPTIONS", "").replace("{counts}", str(project.counts))
    project.write("test_suite.py", suite)
    retrying = ("-p", "pytest_retry.retry_plugin", "-p", "no:rerunfailures", "--retries=2")
    result = project.run(*retrying)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it passed on attempt 3!*"])
    assert (project.counted("data"), project.counted("function")) == (3, 3)
    run(project).assert_outcomes(passed=1)
    assert (project.counted("data"), project.counted("function")) == (3, 3)


def test_a_retry_of_pytest_retry_that_fails_commits_nothing(project: Project) -> None:
    """Its last attempt's report says so, whatever was said of the others."""
    pytest.importorskip("pytest_retry")
    suite = RETRY.replace("OPTIONS", "").replace("{counts}", str(project.counts))
    project.write("test_suite.py", suite)
    retrying = ("-p", "pytest_retry.retry_plugin", "-p", "no:rerunfailures", "--retries=1")
    project.run(*retrying).assert_outcomes(failed=1)
    run(project).assert_outcomes(passed=1)
    assert (project.counted("data"), project.counted("function")) == (3, 3)


@WORKERS
def test_retry_inputs_starts_a_rerun_from_the_staged_values(
    project: Project, workers: tuple[str, ...]
) -> None:
    """``retry_inputs=True``: the retry gets the value as it was computed, not as the failed
    attempt left it, and it commits when the retry passes."""
    suite = RETRY.replace("OPTIONS", "retry_inputs=True").replace("{counts}", str(project.counts))
    project.write("test_suite.py", suite)
    run(project, "--reruns=2", *workers).assert_outcomes(passed=1)
    assert (project.counted("data"), project.counted("function")) == (1, 1)
    run(project, *workers).assert_outcomes(passed=1)
    assert (project.counted("data"), project.counted("function")) == (1, 1)


def test_retry_inputs_survive_until_the_next_run(project: Project) -> None:
    """By ``--lf`` in the next run the failed test starts from its staged inputs; no other test
    does."""
    suite = RETRY.replace("OPTIONS", "retry_inputs=True").replace("{counts}", str(project.counts))
    project.write("test_suite.py", suite + "\n    def test_other(data):\n        pass\n")
    run(project, "-k", "test_it").assert_outcomes(failed=1)
    run(project, "--lf").assert_outcomes(failed=1)
    assert (project.counted("data"), project.counted("function")) == (1, 1)
    run(project, "-k", "test_other").assert_outcomes(passed=1)
    assert project.counted("data") == 2
    run(project, "--lf").assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=2)
    assert (project.counted("data"), project.counted("function")) == (2, 1)


def test_an_interrupted_test_commits_nothing(project: Project) -> None:
    """Ctrl-C in the middle of a test: what tests before it computed is kept, what it computed
    itself is not."""
    project.write(
        "test_suite.py",
        """
        import os
        import signal
        import time
        from counter import count
        from pytest_taskcache import cached, cached_fixture

        @cached
        def number(n):
            count(f"number {n}")
            return n

        @cached_fixture
        def data():
            count("data")
            return 5

        def test_a():
            assert number(1) == 1

        def test_b(data):
            assert number(2) == 2
            if os.path.exists("interrupt"):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(30)
        """,
    )
    project.write("interrupt", "")
    assert project.run().ret == pytest.ExitCode.INTERRUPTED
    (project.path / "interrupt").unlink()
    run(project).assert_outcomes(passed=2)
    counts = [project.counted(name) for name in ("number 1", "number 2", "data")]
    assert counts == [1, 2, 2]
    run(project).assert_outcomes(passed=2)
    assert [project.counted(name) for name in ("number 1", "number 2", "data")] == counts


def test_a_session_fixture_outlives_the_interrupt_of_its_second_user(project: Project) -> None:
    """Its first user passed and committed it."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session")
        def data():
            count("data")
            return 5

        def test_a(data):
            pass

        def test_b(data):
            raise KeyboardInterrupt
        """,
    )
    assert project.run().ret == pytest.ExitCode.INTERRUPTED
    assert project.run().ret == pytest.ExitCode.INTERRUPTED
    assert project.counted() == 1


# ------------------------------------------------------------------------- several workers


def test_one_computation_for_all_workers(project: Project) -> None:
    """Four workers that need two session fixtures and one function compute each once, also what
    one made of the other."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest
        from counter import count
        from pytest_taskcache import cached, cached_fixture

        @cached
        def function():
            count("function")
            time.sleep(0.3)
            return 1

        @cached_fixture(scope="session")
        def first():
            count("first")
            time.sleep(0.3)
            return {"a": 1}

        @cached_fixture(scope="session")
        def second(first):
            count("second")
            time.sleep(0.3)
            return [dict(first)]

        @pytest.mark.parametrize("i", range(8))
        def test_it(i, second):
            time.sleep(0.05)
            assert second == [{"a": 1}]
            assert function() == 1
        """,
    )
    cold_then_warm(project, "-n4", computed=3, passed=8)


def test_a_killed_worker_costs_only_its_own_test(project: Project) -> None:
    """``os._exit`` inside a test: that test is lost; the values it waited for or made, and all
    other tests, are not."""
    project.write(
        "test_suite.py",
        """
        import os
        import pytest
        from counter import count
        from pytest_taskcache import cached, cached_fixture

        @cached_fixture(scope="session")
        def data():
            count("data")
            return 5

        @cached
        def doomed():
            count("doomed")
            return 1

        def test_killer(data):
            doomed()
            if os.path.exists("kill"):
                os._exit(1)

        @pytest.mark.parametrize("i", range(6))
        def test_it(i, data):
            assert data == 5
        """,
    )
    project.write("kill", "")
    result = run(project, "-n2")
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw*' crashed while running*test_killer*"])
    (project.path / "kill").unlink()
    computed = project.counted("data")
    run(project, "-n2").assert_outcomes(passed=7)
    assert project.counted("data") == computed
    assert project.counted("doomed") == 2


def test_fixtures_in_opposite_order_do_not_deadlock(project: Project) -> None:
    """Two workers that ask for two slow values in opposite order both end, with one computation
    of each."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest
        from counter import count
        from pytest_taskcache import cached, cached_fixture

        @cached
        def left():
            count("left")
            time.sleep(0.5)
            return "l"

        @cached
        def right():
            count("right")
            time.sleep(0.5)
            return "r"

        @cached_fixture(scope="session")
        def one(request):
            count("one")
            return left() + right()

        @cached_fixture(scope="session")
        def two(request):
            count("two")
            return right() + left()

        @pytest.mark.xdist_group("a")
        def test_a(one, two):
            assert one + two == "lrrl"

        @pytest.mark.xdist_group("b")
        def test_b(request):
            assert request.getfixturevalue("two") + request.getfixturevalue("one") == "rllr"
        """,
    )
    cold_then_warm(project, "-n2", "--dist=loadgroup", computed=4, passed=2)


def test_parametrized_session_fixtures_are_shared_between_workers(project: Project) -> None:
    """Workers that run the parameters in different order compute each once."""
    project.write(
        "test_suite.py",
        """
        import time
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session", params=[1, 2, 3])
        def data(request):
            count("data")
            time.sleep(0.1)
            return request.param

        @pytest.mark.parametrize("i", range(4))
        def test_it(data, i):
            time.sleep(0.02)
            assert data in (1, 2, 3)
        """,
    )
    cold_then_warm(project, "-n2", computed=3, passed=12)


@pytest.mark.parametrize("mode", ["LAZY", "OFF"])
def test_a_transaction_that_a_wider_fixture_holds_open(project: Project, mode: str) -> None:
    """It holds what the fixture computes, before and after its tests; a test's values are the
    test's, and commit or not as the test passes."""
    project.write(
        "computing.py",
        """
        from counter import count
        from pytest_taskcache import cached

        @cached
        def compute(name):
            count(name)
            return name
        """,
    )
    project.write(
        "test_suite.py",
        f"""
        import pytest
        from computing import compute
        from pytest_taskcache import transaction

        @pytest.fixture(scope="module")
        def held():
            with transaction({mode!r}):
                compute("before")
                yield
                compute("after")

        def test_passes(held):
            compute("passing")

        def test_fails(held):
            compute("failing")
            assert False

        def test_passes_too(held):
            with transaction():
                compute("nested")
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2, failed=1)
    assert project.counted("passing") == project.counted("nested") == 1
    assert project.counted("failing") == 2
    computed = 1 if mode == "LAZY" else 2
    assert [project.counted(name) for name in ("before", "after")] == [computed, computed]


def test_a_fixtures_transaction_that_fails_takes_no_tests_value_with_it(project: Project) -> None:
    """The teardown raises inside the transaction: the fixture's values go, the tests' stay."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached, transaction

        @cached
        def compute(name):
            count(name)
            return name

        @pytest.fixture(scope="module")
        def held():
            with transaction():
                yield
                compute("fixture")
                raise ValueError

        def test_a(held):
            compute("test")

        def test_b(held):
            pass
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2, errors=1)
    assert project.counted("test") == 1
    assert project.counted("fixture") == 2
