"""Other plugins and conftests have their say through ``pytest_taskcache_*`` hooks."""

from __future__ import annotations

import shutil

import pytest
from inner_runs import run
from projects import Project

SUITE = """
    import pytest
    from counter import count

    @pytest.mark.cached
    def test_one():
        count("one")

    @pytest.mark.cached
    def test_two():
        count("two")
"""


def test_a_conftest_may_ask_for_no_replay(project: Project) -> None:
    """The item it objects to runs each time, its neighbour does not; the reason is told."""
    project.write("test_suite.py", SUITE)
    project.write(
        "conftest.py",
        """
        def pytest_taskcache_do_not_replay(item):
            return "updates its snapshots" if item.name == "test_two" else None
        """,
    )
    run(project)
    result = run(project, "-v")
    assert (project.counted("one"), project.counted("two")) == (1, 2)
    result.stdout.fnmatch_lines(["*a plugin objects*updates its snapshots*"])


def test_a_plugin_may_add_to_the_policy(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable that a plugin adds counts for the tests that it names it for."""
    project.write("test_suite.py", SUITE)
    project.write(
        "thirdparty.py",
        """
        from pytest_taskcache import ENV

        def pytest_taskcache_policy(item):
            return ENV("DB_URL") if item.name == "test_one" else None
        """,
    )
    monkeypatch.syspath_prepend(project.path)
    monkeypatch.setenv("DB_URL", "a")
    run(project, "-p", "thirdparty")
    run(project, "-p", "thirdparty")
    assert (project.counted("one"), project.counted("two")) == (1, 1)
    monkeypatch.setenv("DB_URL", "b")
    run(project, "-p", "thirdparty")
    assert (project.counted("one"), project.counted("two")) == (2, 1)


def test_a_plugin_may_observe(project: Project) -> None:
    """Every decision and computation of the run is told to an observer; one that raises is
    told no more, and breaks nothing."""
    project.write("test_suite.py", SUITE)
    project.write(
        "conftest.py",
        """
        from counter import count

        class Counting:
            def notify(self, event):
                count(type(event).__name__)

        class Broken:
            def notify(self, event):
                raise RuntimeError("broken")

        def pytest_taskcache_observer(config):
            return Counting() if "one" in config.option.keyword else Broken()
        """,
    )
    run(project, "-k", "one").assert_outcomes(passed=1, deselected=1)
    assert project.counted("Decided") == 1
    assert project.counted("Computed") == 1
    result = run(project, "-k", "two")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["*observer failed: RuntimeError: broken*"])


def test_an_answer_of_the_wrong_type_is_an_error(project: Project) -> None:
    """The hook and what it should return are named."""
    project.write("test_suite.py", SUITE)
    project.write("conftest.py", "def pytest_taskcache_policy(item):\n    return 'TZ'\n")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any("pytest_taskcache_policy returned 'TZ'" in line for line in result.errlines)


THIRD_PARTY = """
    # A plugin such as a company may have: its storage, and what it wants of its tests.
    from pytest_taskcache import ENV
    from pytest_taskcache.storage.remote.location import storage_by_url

    class Log:
        def __init__(self):
            self.told = []

        def notify(self, event):
            self.told.append(type(event).__name__)

    LOG = Log()

    def pytest_taskcache_storage(config, url):
        if url.startswith("vault://"):
            return storage_by_url("file://" + str(config.rootpath / url.removeprefix("vault://")))

    def pytest_taskcache_policy(item):
        return ENV("DB_URL") if "database" in item.keywords else None

    def pytest_taskcache_do_not_replay(item):
        return "talks to the bank" if "bank" in item.keywords else None

    def pytest_taskcache_observer(config):
        return LOG

    def pytest_terminal_summary(terminalreporter):
        terminalreporter.line(f"third party: {LOG.told.count('Decided')} decisions")
"""


def test_a_small_plugin_of_a_third_party(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a storage, a policy, an objection and an observer of its own: another checkout gets what
    the first one put there, but for the test that it objects to."""
    project.write("thirdparty.py", THIRD_PARTY)
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        @pytest.mark.database
        def test_database():
            count("database")

        @pytest.mark.cached
        @pytest.mark.bank
        def test_bank():
            count("bank")
        """,
    )
    monkeypatch.syspath_prepend(project.path)
    monkeypatch.setenv("DB_URL", "a")
    monkeypatch.setenv("PYTEST_TASKCACHE_SIGNING_KEY", "0123456789abcdef0123456789abcdef")
    given = ("-p", "thirdparty", "--cache-storage=vault://team")
    first = run(project, *given)
    first.assert_outcomes(passed=2, warnings=2)
    first.stdout.fnmatch_lines(["third party: 2 decisions"])
    shutil.rmtree(project.path / ".pytest_cache")
    run(project, *given)
    assert (project.counted("database"), project.counted("bank")) == (1, 2)
    monkeypatch.setenv("DB_URL", "b")
    run(project, *given)
    assert project.counted("database") == 2


def test_a_storage_that_is_none_is_an_error(project: Project) -> None:
    """As is a URL that no plugin knows."""
    project.write("test_suite.py", SUITE)
    project.write("conftest.py", "def pytest_taskcache_storage(url):\n    return url\n")
    result = run(project, "--cache-storage=vault://team")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any("pytest_taskcache_storage returned 'vault:" in line for line in result.errlines)
    project.write("conftest.py", "def pytest_taskcache_storage(url):\n    return None\n")
    result = run(project, "--cache-storage=vault://team")
    assert any("unknown scheme 'vault'" in line for line in result.errlines)
