"""What a failure looks like: as it does without the plugin, to the letter."""

from __future__ import annotations

import re

import pytest
from hurt_project import HurtProject, Ran

FAILING = """
    import glob, importlib, os, pathlib, pytest, shutil
    from pytest_taskcache import cached, cached_fixture

    @cached
    def inverse(x):
        return 1 / x

    @cached
    def inverses(x):
        yield 1 / x

    @cached
    async def awaited(x):
        return 1 / x

    @cached
    async def awaited_inverses(x):
        yield 1 / x

    @cached_fixture
    def broken():
        return inverse(0)

    @pytest.fixture
    @cached
    def broken_too():
        return {}["nothing"]

    def test_environment():
        os.environ["NO_SUCH_VARIABLE"]

    def test_environment_as_bytes():
        os.environb[b"NO_SUCH_VARIABLE"]

    def test_deleted_variable():
        del os.environ["NO_SUCH_VARIABLE"]

    def test_variable_of_another_type():
        os.environ["NUMBER"] = 1

    def test_stat():
        os.stat("missing")

    def test_path():
        pathlib.Path("missing").stat()

    def test_lstat():
        os.lstat("missing")

    def test_link():
        os.readlink("missing")

    def test_access():
        os.access()

    def test_open():
        open("missing")

    def test_listing():
        os.listdir("missing")

    def test_copy():
        shutil.copy("missing", "other")

    def test_import():
        importlib.import_module("no_such_module")

    def test_function():
        inverse(0)

    def test_generator():
        list(inverses(0))

    def test_coroutine():
        awaited(0).send(None)

    def test_async_generator():
        anext(awaited_inverses(0)).send(None)

    def test_fixture(broken):
        pass

    def test_other_fixture(broken_too):
        pass

    def test_missing_fixture(request):
        request.getfixturevalue("nothing")

    def test_assertion():
        assert inverse(2) == 1

    def test_fixture_of_a_conftest(fails_elsewhere):
        pass

    def test_chained(fails_in_turn):
        pass

    def test_set_up_fails():
        pass

    def test_teardown_fails():
        pass
"""

ELSEWHERE = """
    import pytest

    @pytest.fixture
    def fails_elsewhere(request):
        return request.getfixturevalue("fails")

    @pytest.fixture
    def fails():
        raise ValueError

    @pytest.fixture
    def fails_in_turn(request):
        try:
            request.getfixturevalue("fails")
        except ValueError as error:
            raise RuntimeError from error

    def pytest_runtest_setup(item):
        assert item.name != "test_set_up_fails"

    def pytest_runtest_teardown(item):
        assert item.name != "test_teardown_fails"
"""


def _reports(ran: Ran) -> list[str]:
    """The lines from the first failure on, without the plugin's own and without the time."""
    lines = ran.out.splitlines()
    begin = next(
        number
        for number, line in enumerate(lines)
        if line.strip("=").strip() in ("ERRORS", "FAILURES")
    )
    found = [re.sub("0x[0-9a-f]+", "0x", line) for line in lines[begin:-1]]
    return [
        line.replace(", taskcache", "") if "available fixtures" in line else line
        for line in found
        if not line.startswith("taskcache: ")
    ]


@pytest.mark.parametrize("style", ["auto", "short", "long", "line", "native"])
def test_reports_are_the_same(hurt: HurtProject, style: str) -> None:
    """Frames of the plugin, which watches or wraps what failed, are in no report of a test."""
    hurt.write("conftest.py", ELSEWHERE)
    hurt.write("test_suite.py", FAILING)
    options = (f"--tb={style}", "--cache-tests=all")
    plain = hurt.run(options[0], plugin=False)
    ran = hurt.run(*options)
    assert ran.code == plain.code == pytest.ExitCode.TESTS_FAILED, ran.shown
    if style == "native":  # shows everything by definition
        assert ran.outcomes == plain.outcomes
    else:
        assert _reports(ran) == _reports(plain)


@pytest.mark.parametrize(
    "line",
    [
        "import no_such_module",
        "from counter import no_such_name",
        "import broken",
        "import importlib; importlib.import_module('broken')",
        "import os; os.environ['NO_SUCH_VARIABLE']",
        "import os; os.stat('missing')",
        "raise RuntimeError('at import')",
        "import pytest; pytest.skip('all of it', allow_module_level=True)",
        "exit(3)",
        "x = = 1",
        "\\0",
    ],
)
@pytest.mark.parametrize("name", ["test_suite.py", "conftest.py"])
def test_collection_errors_are_the_same(hurt: HurtProject, name: str, line: str) -> None:
    """A module that cannot be imported, or whose dependency has an error in its syntax, is
    reported as without the plugin, whether it holds tests or hooks."""
    hurt.write("broken.py", "x = = 1\n")
    hurt.write("test_other.py", "def test_it():\n    pass\n")
    hurt.write(name, f"{line}\n\ndef test_it():\n    pass\n")
    plain = hurt.run(plugin=False)
    ran = hurt.run("--cache-tests=all")
    assert ran.code == plain.code
    assert ran.outcomes == plain.outcomes
    if "ERRORS" in plain.out:
        assert _reports(ran) == _reports(plain)
    if not _is_raw(plain):
        assert ran.err == plain.err, ran.shown
        assert "pytest_taskcache" not in ran.out + ran.err


def _is_raw(ran: Ran) -> bool:
    """Whether pytest shows all of a stack, its own frames included."""
    return "Traceback (most recent call last)" in ran.out + ran.err
