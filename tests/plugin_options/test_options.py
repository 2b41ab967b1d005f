"""Every way to tell the plugin something: options, ini settings, variables; and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from inner_runs import line_of, run, snapshot
from projects import Project

SUITE = """
    import pytest
    from counter import count
    from pytest_taskcache import cached

    @cached
    def square(x):
        count("function")
        return x * x

    @pytest.mark.cached
    def test_marked():
        count("test")
        assert square(2) == 4

    def test_plain():
        count("plain")
        assert square(3) == 9
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a function, a marked test and a plain one."""
    project.write("test_suite.py", SUITE)
    return project


def _ran(project: Project, *args: str) -> tuple[int, int, int]:
    """How often function, test and plain test ran in one run that passes."""
    names = ("function", "test", "plain")
    before = [project.counted(name) for name in names]
    run(project, *args).assert_outcomes(passed=2)
    after = [project.counted(name) for name in names]
    return (after[0] - before[0], after[1] - before[1], after[2] - before[2])


def test_modes(suite: Project) -> None:
    """``off`` leaves the cache alone, ``r`` only reads, ``w`` only writes, ``rw`` does both."""
    assert _ran(suite, "--cache-mode=off") == (2, 1, 1)
    assert not (suite.path / ".pytest_cache/taskcache").exists()
    assert _ran(suite, "--cache-mode=r") == (2, 1, 1)
    assert not (suite.path / ".pytest_cache/taskcache").exists()
    assert _ran(suite, "--cache-mode=w") == (2, 1, 1)
    assert _ran(suite, "--cache-mode=r") == (0, 0, 1)
    assert _ran(suite, "--cache-mode=w") == (2, 1, 1)
    assert _ran(suite, "--cache-mode=rw") == (0, 0, 1)


def test_reading_only_writes_nothing(suite: Project) -> None:
    """In mode ``r`` no file is made, changed or touched, on hits and on misses."""
    _ran(suite)
    directory = suite.path / ".pytest_cache/taskcache"
    before = snapshot(directory)
    assert _ran(suite, "--cache-mode=r") == (0, 0, 1)
    assert snapshot(directory) == before
    suite.write("test_suite.py", SUITE.replace("x * x", "x ** 2"))
    assert _ran(suite, "--cache-mode=r") == (2, 1, 1)
    assert snapshot(directory) == before


def test_refresh(suite: Project) -> None:
    """``--cache-refresh`` computes everything anew, each key once, and keeps it."""
    _ran(suite)
    assert _ran(suite, "--cache-refresh") == (2, 1, 1)
    assert _ran(suite) == (0, 0, 1)


def test_refresh_only(suite: Project) -> None:
    """``--cache-refresh-only`` computes anew what has the pattern in its name."""
    _ran(suite)
    assert _ran(suite, "--cache-refresh-only=test_marked") == (0, 1, 1)
    assert _ran(suite, "--cache-refresh-only=square") == (1, 0, 1)
    assert _ran(suite) == (0, 0, 1)


def test_variables_and_ini(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over the environment, which wins over the ini file."""
    suite.write("pytest.ini", "[pytest]\ntaskcache_tests = all\ntaskcache_mode = off\n")
    assert _ran(suite) == (2, 1, 1)
    assert _ran(suite) == (2, 1, 1)
    monkeypatch.setenv("PYTEST_TASKCACHE_MODE", "rw")
    assert _ran(suite) == (2, 1, 1)
    assert _ran(suite) == (0, 0, 0)
    monkeypatch.setenv("PYTEST_TASKCACHE_TESTS", "none")
    assert _ran(suite) == (0, 1, 1)
    assert _ran(suite, "--cache-tests=marked") == (0, 0, 1)
    assert _ran(suite, "--cache-mode=off") == (2, 1, 1)
    monkeypatch.setenv("PYTEST_TASKCACHE_REFRESH", "yes")
    assert _ran(suite, "--cache-tests=all") == (2, 1, 1)


def test_another_place(suite: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    """``--cache-storage=PATH`` keeps everything there and nothing in pytest's cache directory;
    ``--cache-clear`` clears it there."""
    place = tmp_path_factory.mktemp("elsewhere") / "cache"
    assert _ran(suite, f"--cache-storage={place}") == (2, 1, 1)
    assert _ran(suite, f"--cache-storage={place}") == (0, 0, 1)
    assert (place / "index.sqlite3").exists()
    assert not (suite.path / ".pytest_cache/taskcache").exists()
    assert _ran(suite, f"--cache-storage={place}", "--cache-clear") == (2, 1, 1)
    assert _ran(suite) == (2, 1, 1)


def test_without_pytests_own_cache(suite: Project) -> None:
    """With ``-p no:cacheprovider`` the cache lives in ``.taskcache`` beside the ini file."""
    assert _ran(suite, "-p", "no:cacheprovider") == (2, 1, 1)
    assert _ran(suite, "-p", "no:cacheprovider") == (0, 0, 1)
    assert (suite.path / ".taskcache/index.sqlite3").exists()
    assert (suite.path / ".taskcache/CACHEDIR.TAG").exists()
    assert not (suite.path / ".pytest_cache").exists()


def test_pytests_cache_directory_is_followed(suite: Project) -> None:
    """The ini setting ``cache_dir`` moves this cache too."""
    suite.write("pytest.ini", "[pytest]\ncache_dir = build/cache\n")
    assert _ran(suite) == (2, 1, 1)
    assert (suite.path / "build/cache/taskcache/index.sqlite3").exists()
    assert _ran(suite) == (0, 0, 1)


def test_cache_clear(suite: Project) -> None:
    """``--cache-clear`` empties this cache too, and the run that clears fills it again."""
    _ran(suite)
    assert _ran(suite, "--cache-clear") == (2, 1, 1)
    assert _ran(suite) == (0, 0, 1)


def test_clearing_nothing_makes_nothing(project: Project) -> None:
    """``--cache-clear`` without a cache creates none."""
    project.write("test_suite.py", "def test_it():\n    pass\n")
    project.run("--cache-clear").assert_outcomes(passed=1)
    assert not (project.path / ".pytest_cache/taskcache").exists()


def test_fixtures_by_ini(project: Project) -> None:
    """``taskcache_fixtures`` names fixtures to cache that one does not own."""
    project.write("pytest.ini", "[pytest]\ntaskcache_fixtures = data\n")
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.fixture(scope="module")
        def data():
            count("fixture")
            return [1]

        def test_it(data):
            assert data == [1]
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--cache-mode=rwx"], "*--cache-mode*'rwx' cannot be used*rw, r, w, off*"),
        (["--cache-tests=some"], "*--cache-tests*'some'*marked, all, none*"),
        (["--cache-verify=120"], "*--cache-verify*'120'*between 0 and 100*"),
        (["--cache-verify=nan"], "*--cache-verify*'nan'*between 0 and 100*"),
        (["--cache-refresh", "--cache-refresh-only=x"], "*contradict each other*give one*"),
        (["--cache-refresh-only="], "*--cache-refresh-only*write a part*"),
        (["--cache-refresh", "--cache-mode=r"], "*--cache-refresh*mode 'r'*--cache-mode=rw*"),
        (["--cache-refresh-only=x", "--cache-mode=off"], "*--cache-refresh-only*'off'*"),
        (["--cache-verify=5", "--cache-mode=w"], "*--cache-verify*no hits*'w'*"),
        (["-o", "taskcache_max_size=huge"], "*taskcache_max_size*'huge'*5GB*"),
        (["-o", "taskcache_max_size=" + "9" * 400], "*taskcache_max_size*5GB*"),
        (["-o", "taskcache_max_size=-1"], "*taskcache_max_size*'-1'*5GB*"),
        (["-o", "taskcache_tests_max_age=" + "9" * 30 + "w"], "*taskcache_tests_max_age*never*"),
        (["-o", "taskcache_tests_max_age=-1d"], "*taskcache_tests_max_age*'-1d'*7d*"),
        (["-o", "taskcache_tests_max_age=soon"], "*taskcache_tests_max_age*'soon'*7d*"),
        (["-o", "taskcache_isolation=NONE"], "*taskcache_isolation*SERIALIZABLE*"),
        (["-o", "taskcache_trust_remote=maybe"], "*taskcache_trust_remote*true or false*"),
        (["-o", "taskcache_lock_manager=carrier-pigeon"], "*carrier-pigeon*file*"),
        (["-o", "taskcache_lock_manager=redis://host:port"], "*lock_manager*redis://*port*"),
        (["-o", "taskcache_mode=on"], "*taskcache_mode*'on'*rw, r, w, off*"),
        (["-o", "taskcache_tests=every"], "*taskcache_tests*'every'*marked, all, none*"),
        (["-o", "taskcache_verify=much"], "*taskcache_verify*'much'*between 0 and 100*"),
        (["--cache-mode="], "*--cache-mode*''*rw, r, w, off*"),
        (["--cache-verify=1e999"], "*--cache-verify*between 0 and 100*"),
        (["--cache-storage=gopher://x/y"], "*gopher*"),
        (["-o", "taskcache_storage=gopher://x/y"], "*gopher*s3://*"),
        (["-o", "taskcache_key_storage=gopher://x/y"], "*gopher*s3://*"),
        (["-o", "taskcache_result_storage=gopher://x/y"], "*gopher*s3://*"),
        (["--cache-storage=a,,b"], "*storage*a tier is empty*local:rw*"),
        (["--cache-storage=s3://"], "*storage*s3://*scheme://bucket/prefix*"),
        (["--cache-storage=file://"], "*storage*file://*file:///directory*"),
        (["--cache-storage=redis://host:port/0"], "*storage*redis://host:port/0*redis://host:6379*"),
        (["--cache-storage=postgresql://host:port/d"], "*storage*postgresql+psycopg://user@host*"),
        (["--cache-storage=~nobody-of-this-name/x"], "*storage*home*write the whole path*"),
        (["--cache-storage=s3://bucket/{nothing}"], "*storage*{nothing}*"),
        (
            ["--cache-storage=a/b", "-o", "taskcache_key_storage=c/d",
             "-o", "taskcache_result_storage=e/f"],
            "*leave one of the three out*",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_stops_the_run(suite: Project, args: list[str], text: str) -> None:
    """A wrong or contradictory value is a usage error that names the setting and the remedy;
    no test runs."""
    result = run(suite, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([text])
    assert suite.counted() == 0


def test_an_unknown_variable_stops_the_run(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt ``PYTEST_TASKCACHE_*`` variable is an error; so is a wrong value in one."""
    monkeypatch.setenv("PYTEST_TASKCACHE_MOOD", "r")
    result = run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*PYTEST_TASKCACHE_MOOD*no such setting*PYTEST_TASKCACHE_MODE*"])
    monkeypatch.delenv("PYTEST_TASKCACHE_MOOD")
    monkeypatch.setenv("PYTEST_TASKCACHE_MODE", "x")
    result = run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*PYTEST_TASKCACHE_MODE*'x'*"])


def test_options_do_not_swallow_paths(suite: Project) -> None:
    """An option that takes no value leaves the path after it alone."""
    result = run(suite, "--cache-refresh", "test_suite.py")
    result.assert_outcomes(passed=2)


def test_help_lists_the_options(suite: Project) -> None:
    """``--help`` shows options and ini settings; ``--markers`` the mark."""
    text = "\n".join(run(suite, "--help").outlines)
    for name in ("--cache-refresh-only", "--cache-mode", "--cache-verify", "taskcache_max_size"):
        assert name in text
    assert "@pytest.mark.cached" in "\n".join(run(suite, "--markers").outlines)


def test_strict_markers_know_the_mark(suite: Project) -> None:
    """The mark is registered."""
    assert _ran(suite, "--strict-markers") == (2, 1, 1)


def test_only_some_tests_are_picked_for_verification(project: Project) -> None:
    """With the same seed ``--cache-verify`` picks the same share; the line says which seed."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count

        @pytest.mark.cached
        @pytest.mark.parametrize("n", range(40))
        def test_it(n):
            count(f"{n}")
        """,
    )
    run(project).assert_outcomes(passed=40)
    project.counts.unlink()
    first = run(project, "--cache-verify=25")
    first.assert_outcomes(passed=40)
    picked = sorted(project.counts.read_text().split())
    assert 1 <= len(picked) < 40
    assert f"{len(picked)} verified" in line_of(first)
    again = line_of(first).rpartition("(again: ")[2].rstrip(")")
    project.counts.unlink()
    run(project, again).assert_outcomes(passed=40)
    assert sorted(project.counts.read_text().split()) == picked


def test_the_plugin_can_be_switched_off(suite: Project) -> None:
    """With ``-p no:taskcache`` decorated code and marked tests run as if it was not there."""
    suite.write("pytest.ini", "[pytest]\nmarkers = cached\n")
    for _ in range(2):
        assert _ran(suite, "-p", "no:taskcache") == (2, 1, 1)
    assert not list(Path(suite.path).rglob("index.sqlite3"))
