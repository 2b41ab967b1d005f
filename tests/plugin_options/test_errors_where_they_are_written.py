"""What cannot work is an error where it is written, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from inner_runs import line_of, run
from projects import Project

from pytest_taskcache import DEFAULT, Cache, cached, cached_fixture
from pytest_taskcache.config.settings import NAMES
from pytest_taskcache.errors import ConfigurationError


def _f(x: int = 0) -> int:
    return x


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (lambda: cached(allow={"subproces"}), "allow: there is no kind 'subproces'; use of .*'sub"),
        (lambda: cached_fixture(allow="efects"), "allow: there is no kind 'efects'; use of .*'eff"),
        (lambda: cached(expiration=timedelta(0)), "expiration: 0:00:00 has passed already"),
        (lambda: cached(expiration=timedelta(-1)), "expiration: .* has passed already"),
        (lambda: cached(serializer="xml"), "serializer: unknown serializer 'xml'; write one of"),
        (lambda: cached(consumers="some"), "consumers: 'some' is unknown; use 'any' or 'all'"),
        (lambda: cached(result_storage="redsi://h/x"), "result_storage: .*unknown scheme 'redsi'"),
        (lambda: cached(result_storage="s3:/x"), "result_storage: s3:/.* is no URL; write s3://"),
        (lambda: DEFAULT.configure(key_storage="redsi://h/x"), "key_storage: .*scheme 'redsi'"),
        (lambda: DEFAULT.configure(key_storage="local,s3:/x"), "key_storage: s3:/.* is no URL"),
        (lambda: DEFAULT.configure(isolation_level="HIGH"), "isolation_level: 'HIGH'"),
    ],
)
def test_options_of_decorators(written: Callable[[], object], told: str) -> None:
    """Told when the module is imported, before anything runs."""
    with pytest.raises(ConfigurationError, match=told):
        written()


@pytest.mark.parametrize("option", [{"allow": {"network"}}, {"consumers": "all"}])
def test_what_is_for_fixtures_is_refused_for_functions(
    tmp_path: Path, option: dict[str, object]
) -> None:
    """Whether it is one is known when it is called."""
    function = cached(**option)(_f)  # type: ignore[call-overload]
    with Cache(tmp_path), pytest.raises(ConfigurationError, match=f"{next(iter(option))} of _f"):
        function()


def test_names_of_fixtures(project: Project) -> None:
    """In a mark, of what its test can see; in the settings, of all there are. A run of some files
    cannot tell, and says nothing."""
    project.write("conftest.py", "import pytest\n\n@pytest.fixture\ndef data():\n    return 1\n")
    project.write("test_a.py", "def test_it(data):\n    pass\n")
    result = run(project, "-o", "taskcache_fixtures=dta")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*taskcache_fixtures: no fixture is named 'dta'; did you mean 'data'?"]
    )
    run(project, "-o", "taskcache_fixtures=dta", "test_a.py").assert_outcomes(passed=1)
    run(project, "-o", "taskcache_fixtures=data").assert_outcomes(passed=1)
    project.write(
        "test_b.py",
        """
        import pytest

        @pytest.mark.cached(fixtures=["dta"])
        def test_it(data):
            pass
        """,
    )
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_b.py::test_it: cached(fixtures=*no fixture named 'dta'"])


def test_paths_mean_what_a_shell_user_expects(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home directory and variables are filled in; one that is not set is an error."""
    project.write("test_a.py", "from pytest_taskcache import cached\n\n@cached\ndef f():\n"
                  "    pass\n\ndef test_it():\n    f()\n")  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    run(project, "--cache-storage=~/home").assert_outcomes(passed=1)
    run(project, "--cache-storage=$PLACE/sub", "--cache-report=${PLACE}.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "place", "place.html"]
    result = run(project, "--cache-storage=$NOWHERE/sub")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*storage: $NOWHERE/sub: $NOWHERE is not set; set it, or*"])
    assert not (project.path / "$NOWHERE").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("fixtures", "report")])
def test_every_setting_can_be_written_anywhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As an ini setting, as a variable, and in pyproject.toml: a value that cannot be used is told
    with the name of each."""
    free = {"storage", "key_storage", "result_storage", "lock_manager", "namespace"}
    wrong = "redis://host:port/0" if name in free else "?" if name != "refresh_only" else " "
    if name in ("namespace", "read_namespaces", "neutral_options"):
        wrong = "{nothing}"
    project.write("test_a.py", "from pytest_taskcache import cached\n\n@cached\ndef f():\n"
                  "    pass\n\ndef test_it():\n    f()\n")  # fmt: skip
    more = ["--cache-storage=file:///tmp/x"] if "namespace" in name else []
    assert f"taskcache_{name}" in run(project, "--help").stdout.str()
    ini = run(project, "-o", f"taskcache_{name}={wrong}", *more)
    monkeypatch.setenv(f"PYTEST_TASKCACHE_{name.upper()}", wrong)
    variable = run(project, *more)
    monkeypatch.delenv(f"PYTEST_TASKCACHE_{name.upper()}")
    project.write("pyproject.toml", f"[tool.taskcache]\n{name} = {wrong!r}\n")
    table = run(project, *more)
    for result in (ini, variable, table):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert name in "\n".join(result.errlines).lower()


def test_a_loop_scope_is_pytest_asyncios(project: Project) -> None:
    """An async fixture of a loop that outlives its test is cached like any other."""
    project.write(
        "test_a.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session", loop_scope="session")
        async def data():
            count("data")
            return [1]

        @pytest.mark.asyncio(loop_scope="session")
        async def test_it(data):
            assert data == [1]
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == 1


def test_a_shared_storage_tells_its_writer(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nobody will believe what is not signed; that it lacks what is here already, once. With a
    key, records of before there was one are faults until there are others, and not for ever."""
    project.write("test_a.py", "from pytest_taskcache import cached\n\n@cached\ndef f():\n"
                  "    pass\n\ndef test_it():\n    f()\n")  # fmt: skip
    url = f"file://{tmp_path_factory.mktemp('shared')}"
    run(project)
    signed, new = "not signed, and so believed by nobody; set PYTEST", "is new here: taskcache push"
    first = run(project, f"--cache-storage={url}").stdout.str()
    second = run(project, f"--cache-storage={url}").stdout.str()
    assert (signed in first, new in first) == (True, True)
    assert (signed in second, new in second) == (True, False)
    run(project, f"--cache-storage={url}", "--cache-refresh")
    monkeypatch.setenv("PYTEST_TASKCACHE_SIGNING_KEY", "a secret of 32 bytes and some more")
    lines = []
    for _ in range(2):
        for path in (project.path / ".pytest_cache/taskcache").rglob("*"):
            path.unlink() if path.is_file() else None
        lines.append(line_of(run(project, f"--cache-storage={url}")))
    assert lines[0] == "1 function computed, 1 fault (1 refused: a record is not signed)"
    assert lines[1].startswith("1 function reused")
    assert "fault" not in lines[1]
