"""Cached fixtures that nobody needs are neither set up nor fetched."""

from __future__ import annotations

import inner_runs
import pytest
from projects import Project

LOUD = """
    from counter import count

    class Loud:
        def __init__(self, text):
            self.text = text
        def __reduce__(self):
            return fetched, (self.text,)

    def fetched(text):
        count("fetched")
        return Loud(text)
"""
"""Values that tell when one is decoded."""

SUITE = """
    from pathlib import Path
    import pytest
    from counter import count
    from loud import Loud
    from pytest_taskcache import DEFAULT, ENV, cached_fixture

    @cached_fixture{scope}
    def rows():
        count("rows")
        return Loud(Path("size.txt").read_text())

    @cached_fixture{scope}
    def data(rows):
        count("data")
        return Loud(rows.text * 3)

    @cached_fixture{scope}
    def model(data):
        count("model")
        return ["model", data.text]

    @cached_fixture{scope}
    def report(model):
        count("report")
        return ["report", *model]

    def test_model(model):
        assert model[0] == "model"

    def test_report(report):
        assert report[1] == "model"
"""
ALL = {"rows", "data", "model", "report"}

SCOPES = pytest.mark.parametrize("scope", ["", "(scope='session')"], ids=["function", "session"])


def write(project: Project, text: str = SUITE, scope: str = "") -> None:
    project.write("size.txt", "3")
    project.write("loud.py", LOUD)
    project.write("test_suite.py", text.replace("{scope}", scope))


def run(project: Project, *args: str, **outcomes: int) -> set[str]:
    """What was set up and fetched in a run."""
    project.counts.write_text("")
    inner_runs.run(project, *args).assert_outcomes(**outcomes or {"passed": 2})
    return set(project.counts.read_text().split("\n")[:-1])


@SCOPES
def test_where_all_consumers_are_hits_nothing_is_fetched(project: Project, scope: str) -> None:
    """Run; cached; change what only the upstream reads; not cached; cached again."""
    write(project, scope=scope)
    assert run(project) >= ALL
    for _ in range(2):
        assert run(project) == set()
    project.write("size.txt", "4")
    assert run(project) >= ALL
    assert run(project) == set()


@SCOPES
@pytest.mark.parametrize(
    ("before", "after", "computed"),
    [
        ("return Loud(Path", "return Loud('' + Path", {"rows"}),
        ("rows.text * 3", "rows.text * 4", {"data", "model", "report"}),
    ],
)
def test_an_edit_of_the_upstream_counts(
    project: Project, scope: str, before: str, after: str, computed: set[str]
) -> None:
    """Though it is not asked for what it gives."""
    write(project, scope=scope)
    run(project)
    write(project, SUITE.replace(before, after), scope)
    assert run(project) >= computed
    assert run(project) == set()


@SCOPES
@pytest.mark.parametrize(
    "asker",
    [
        "def test_asks(data, model): assert data.text == '333'",
        "@pytest.mark.usefixtures('data')\ndef test_asks(model): pass",
        "def test_asks(request, model): assert request.getfixturevalue('data').text == '333'",
        "@pytest.fixture\ndef plain(data): return data\ndef test_asks(plain, model): assert plain",
    ],
    ids=["by name", "by mark", "at run time", "by a fixture"],
)
def test_who_asks_gets_it(project: Project, scope: str, asker: str) -> None:
    """And a value of its own."""
    lines = "".join(f"    {line}\n" for line in asker.split("\n"))
    write(project, f"{SUITE}\n{lines}", scope)
    run(project, passed=3)
    assert run(project, passed=3) == {"fetched"}
    assert run(project, "-k", "not asks") == set()


@pytest.mark.parametrize(
    "upstream",
    [
        "def rows(): return Loud(str(helpers.Stamp().at))",
        "def rows(): return Loud(str(sample(range(10**9), 3)))",
        "def rows(): return Loud(str(helpers.STARTED))",
        "def rows(request): return Loud(str(request.node.user_properties) + str(id(request)))",
    ],
    ids=["clock of a class", "drawn", "clock at import", "request"],
)
@pytest.mark.parametrize("between", [True, False])
def test_one_that_is_not_cached_decides_by_its_value(
    project: Project, upstream: str, between: bool
) -> None:
    """It may give something else with nothing seen to change; so may what is made of it."""
    rows = SUITE[
        SUITE.index("    @cached_fixture") : SUITE.index("    @cached_fixture{scope}\n    def data")
    ]
    text = SUITE.replace(rows, f"    @pytest.fixture\n    {upstream}\n\n")
    text = text.replace(
        "import pytest\n", "import pytest, helpers\n    from random import sample\n", 1
    )
    if not between:
        text = text.replace("@cached_fixture{scope}\n    def data", "@pytest.fixture\n    def data")
    project.write(
        "helpers.py",
        """
        import time
        STARTED = time.perf_counter_ns()
        class Stamp:
            def __init__(self): self.at = time.perf_counter_ns()
        """,
    )
    write(project, text)
    for _ in range(2):
        assert run(project) >= {"data", "model", "report"}


@pytest.mark.parametrize(
    "options",
    [
        "key='rows'",
        "policy=DEFAULT + ENV('REGION')",
        "validator=lambda c, r: True",
        "persist=False",
    ],
)
def test_one_whose_author_asks_for_more_is_asked(
    project: Project, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """What it gives may follow from more than what was observed."""
    monkeypatch.setenv("REGION", "north")
    first = "@cached_fixture{scope}\n    def rows"
    write(project, SUITE.replace(first, f"@cached_fixture({options})\n    def rows"))
    run(project)
    assert run(project) & {"fetched", "rows"}


def test_another_fixture_of_the_name_counts(project: Project) -> None:
    """One nearer to the test replaces what the record was made of."""
    conftest = SUITE.split("    def test_model")[0]
    project.write("size.txt", "3")
    project.write("loud.py", LOUD)
    project.write("conftest.py", conftest.replace("{scope}", ""))
    head = "from loud import Loud\nfrom pytest_taskcache import cached_fixture\n"
    nearer = "@cached_fixture\ndef rows():\n    return Loud('x')\n"
    body = "def test_model(model):\n    assert model[1] == {}\n"
    for text in (nearer + body.format("'xxx'"), body.format("'333'")):
        project.write("test_suite.py", head + text)
        assert "model" in run(project, passed=1)
        assert run(project, passed=1) == set()


def test_a_parametrized_upstream_is_fetched(project: Project) -> None:
    """Which of its values a test is given depends on the test."""
    text = SUITE.replace("{scope}\n    def rows():", "(params=[1, 2])\n    def rows(request):")
    write(
        project,
        text.replace("size.txt", "size.txt").replace(
            ".read_text()", ".read_text() * request.param"
        ),
    )
    run(project, passed=4)
    assert run(project, passed=4) == {"fetched"}


def test_a_live_one_stays_where_a_test_gives_its_upstream(project: Project) -> None:
    """As it does in pytest without a cache."""
    text = f"""{SUITE}
    @pytest.mark.parametrize("data", [Loud("given")], scope="module")
    def test_with_given(model):
        assert model == ["model", "333"]
    """
    write(project, text.replace("def test_report", "def other_report"), "(scope='module')")
    for _ in range(3):
        run(project)


def test_what_an_automatic_fixture_changes_counts(project: Project) -> None:
    """Though it runs after the set-up was planned: a variable, a patch."""
    text = SUITE.replace("Loud(Path(", "Loud(os.environ.get('REGION', '') + Path(")
    text = text.replace("from pathlib", "import os\n    from pathlib")
    text = f"""{text}
    @pytest.fixture
    def south(monkeypatch):
        monkeypatch.setenv("REGION", "south")

    @pytest.mark.usefixtures("south")
    def test_south(model):
        assert model[1] == "south3" * 3
    """
    write(project, text)
    for _ in range(3):
        run(project, passed=3)
    assert run(project, "-k", "not south") == set()


def test_a_run_that_refreshes_sets_everything_up(project: Project) -> None:
    """And so does one that may not read; what alone is to be refreshed is."""
    write(project)
    run(project)
    for args in ("--cache-refresh",), ("--cache-mode=w",), ("--cache-mode=off",):
        assert run(project, *args) >= ALL
    assert "rows" in run(project, "--cache-refresh-only=*::rows")


@SCOPES
def test_with_workers(project: Project, scope: str) -> None:
    """Each decides for its own tests."""
    write(project, scope=scope)
    run(project, "-n", "2")
    assert run(project, "-n", "2") == set()
