"""Fixtures that nobody needs are neither set up nor fetched."""

from __future__ import annotations

import inner_runs
import pytest
from projects import Project

SUITE = """
    from pathlib import Path
    import pytest
    from counter import count
    from pytest_taskcache import cached_fixture

    @pytest.fixture{scope}
    def rows():
        count("rows")
        return Path("size.txt").read_text()

    @pytest.fixture{scope}
    def data(rows):
        count("data")
        yield [rows] * 3
        count("data ended")

    @cached_fixture{scope}
    def model(data):
        count("model")
        return ["model", *data]

    @cached_fixture{scope}
    def report(model):
        count("report")
        return ["report", *model]

    def test_model(model):
        assert model[0] == "model"

    def test_report(report):
        assert report[1] == "model"
"""

SCOPES = pytest.mark.parametrize("scope", ["", "(scope='session')"], ids=["function", "session"])


def write(project: Project, text: str = SUITE, scope: str = "") -> None:
    project.write("size.txt", "3")
    project.write("test_suite.py", text.replace("{scope}", scope))


def run(project: Project, *args: str, **outcomes: int) -> pytest.RunResult:
    """What was counted before is not."""
    project.counts.write_text("")
    result = inner_runs.run(project, *args)
    result.assert_outcomes(**outcomes or {"passed": 2})
    return result


def ran(project: Project) -> set[str]:
    return set(project.counts.read_text().split("\n")[:-1]) if project.counts.exists() else set()


@SCOPES
def test_where_all_consumers_are_hits_nothing_is_set_up(project: Project, scope: str) -> None:
    """Run; cached; change what only the upstream reads; not cached; cached again."""
    write(project, scope=scope)
    run(project)
    assert ran(project) == {"rows", "data", "data ended", "model", "report"}
    for _ in range(2):
        run(project)
        assert ran(project) == set()
    project.write("size.txt", "4")
    run(project)
    assert ran(project) == {"rows", "data", "data ended", "model", "report"}
    run(project)
    assert ran(project) == set()


@SCOPES
@pytest.mark.parametrize(
    ("before", "after"),
    [("return Path", "return '' + Path"), ("yield [rows] * 3", "yield [rows] * 4")],
)
def test_an_edit_of_the_upstream_counts(
    project: Project, scope: str, before: str, after: str
) -> None:
    """Though it is not set up to see what it gives."""
    write(project, scope=scope)
    run(project)
    write(project, SUITE.replace(before, after), scope)
    run(project)
    assert {"rows", "data"} <= ran(project)
    assert {"model", "report"} <= ran(project)
    run(project)
    assert ran(project) == set()


@SCOPES
@pytest.mark.parametrize(
    "asker",
    [
        "def test_asks(data, model): assert data",
        "@pytest.mark.usefixtures('data')\ndef test_asks(model): pass",
        "def test_asks(request, model): assert request.getfixturevalue('data')",
        "@pytest.fixture\ndef plain(data): return data\ndef test_asks(plain, model): assert plain",
    ],
    ids=["by name", "by mark", "at run time", "by a fixture"],
)
def test_who_asks_gets_it(project: Project, scope: str, asker: str) -> None:
    """And a value of its own."""
    lines = "".join(f"    {line}\n" for line in asker.split("\n"))
    write(project, f"{SUITE}\n{lines}", scope)
    for _ in range(2):
        run(project, passed=3)
        assert {"rows", "data", "data ended"} <= ran(project)
    assert "model" not in ran(project)
    run(project, "-k", "not asks", passed=2)
    assert ran(project) == set()


def test_one_that_may_change_what_others_need_is_set_up(project: Project) -> None:
    """What it is given is the others', too."""
    text = SUITE.replace("yield [rows] * 3", "yield [rows.pop()] * 3")
    text = text.replace('return Path("size.txt").read_text()', "return ['3', 'left']")
    text = f"""{text}
    def test_rows(rows, model):
        assert rows == ["3"]
    """
    write(project, text.replace("assert model[0]", "assert model[1] == 'left' and model[0]"))
    for _ in range(2):
        run(project, passed=3)
        assert "data" in ran(project)
    run(project, "-k", "not rows")
    assert ran(project) == set()


def test_another_fixture_of_the_name_counts(project: Project) -> None:
    """One nearer to the test replaces what the record was made of."""
    project.write("size.txt", "3")
    nearer = "@pytest.fixture\ndef rows():\n    count('nearer')\n    return 'x'\n"
    conftest = SUITE.split("    def test_model")[0]
    project.write("conftest.py", conftest.replace("{scope}", ""))
    head = "import pytest\nfrom counter import count\n"
    body = "def test_model(model):\n    assert model[1] == {}\n"
    project.write("test_suite.py", head + nearer + body.format("'x'"))
    for computed in ({"nearer", "data", "data ended", "model"}, set()):
        run(project, passed=1)
        assert ran(project) == computed
    project.write("test_suite.py", head + body.format("'3'"))
    run(project, passed=1)


@pytest.mark.parametrize(
    "upstream",
    [
        "def rows(request): count('rows'); return request.node.name",
        "def rows(): count('rows'); import time; return time.monotonic_ns() and 3",
        "def rows(): count('rows'); import subprocess; subprocess.run(['true']); return 3",
        "def rows(monkeypatch): count('rows'); monkeypatch.setenv('A', '1'); return 3",
    ],
    ids=["request", "clock", "opaque", "handle"],
)
def test_an_upstream_that_may_give_something_else_is_set_up(
    project: Project, upstream: str
) -> None:
    """It decides by its value, as ever."""
    before = 'def rows():\n        count("rows")\n        return Path("size.txt").read_text()'
    assert before in SUITE
    write(project, SUITE.replace(before, upstream))
    for _ in range(2):
        run(project)
        assert "rows" in ran(project)


def test_a_parametrized_upstream_is_set_up(project: Project) -> None:
    """By its own parameters, or the test's."""
    text = SUITE.replace(
        "@pytest.fixture{scope}\n    def rows():",
        "@pytest.fixture(params=[1, 2])\n    def rows(request):",
    )
    write(project, text)
    for _ in range(2):
        run(project, passed=4)
        assert "rows" in ran(project)


def test_a_live_one_stays_where_a_test_gives_its_upstream(project: Project) -> None:
    """As it does in pytest without a cache."""
    text = f"""{SUITE}
    @pytest.mark.parametrize("data", [["given"]], scope="module")
    def test_with_given(model):
        assert model == ["model", "3", "3", "3"]
    """
    write(project, text.replace("def test_report", "def other_report"), "(scope='module')")
    for _ in range(3):
        run(project, passed=2)


def test_what_an_automatic_fixture_changes_counts(project: Project) -> None:
    """Though it runs after the set-up was planned: a variable, a patch."""
    text = SUITE.replace("return Path(", "return os.environ.get('REGION', '') + Path(")
    text = text.replace("from pathlib", "import os\n    from pathlib")
    text = f"""{text}
    @pytest.fixture
    def south(monkeypatch):
        monkeypatch.setenv("REGION", "south")

    @pytest.mark.usefixtures("south")
    def test_south(model):
        assert model[1] == "south3"
    """
    write(project, text)
    for _ in range(3):
        run(project, passed=3)
    run(project, "-k", "not south")
    assert ran(project) == set()


def test_a_run_that_refreshes_sets_everything_up(project: Project) -> None:
    """And so does one that may not read."""
    write(project)
    run(project)
    for args in ("--cache-refresh",), ("--cache-mode=w",), ("--cache-mode=off",):
        run(project, *args)
        assert {"rows", "data", "model", "report"} <= ran(project)


@SCOPES
def test_with_workers(project: Project, scope: str) -> None:
    """Each decides for its own tests."""
    write(project, scope=scope)
    run(project, "-n", "2")
    run(project, "-n", "2")
    assert ran(project) == set()
