"""A value rests on the code that it holds, and on paths that will be there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import inner_runs
import pytest
from bodies import ran, times

from pytest_taskcache import cached
from pytest_taskcache.model.event import Computed

MAKER = """
    def adder(n):
        def add(x):
            return x + n
        return add

    def beside():
        return 1
"""

MAIN = """
    from bodies import ran
    from pytest_taskcache import *
    import maker

    @cached(policy=INPUTS + OBSERVED)
    def made():
        ran("made")
        return maker.adder(1)

    @cached(policy=INPUTS + OBSERVED)
    def user():
        ran("user")
        return made()(1)
"""


def test_a_closure_rests_on_its_source_though_it_never_ran(closed, load):
    """Edited, it is made anew; whoever used the value is computed again, too."""
    load("maker", MAKER)
    module = load("main", MAIN)
    with closed:
        assert module.made()(1) == 2
        assert module.made()(1) == 2
    assert times("made") == 1
    load("maker", MAKER.replace("return x + n", "return x + n + 10"))
    module = load("main", MAIN)
    with closed:
        assert module.made()(1) == 12
        assert module.user() == 12
    assert times("made") == 2
    load("maker", MAKER.replace("return x + n", "return x + n + 20"))
    module = load("main", MAIN)
    with closed:
        assert module.user() == 22
    assert times("user") == 2


def test_a_comment_beside_held_code_changes_nothing(closed, load):
    """Source counts as it means, not as it is written."""
    load("maker", MAKER)
    module = load("main", MAIN)
    with closed:
        module.made()
    load("maker", MAKER.replace("return x + n", "return x + n  # exact"))
    module = load("main", MAIN)
    with closed:
        assert module.made()(1) == 2
    assert times("made") == 1


def test_a_path_in_the_systems_temporary_directory_is_refused(cache, events):
    """The next run does not have it; the reason names the directory and the remedy."""

    @cached
    def listed():
        return [str(Path(tempfile.mkdtemp(prefix="held-")))]

    listed()
    (event,) = events.of(Computed)
    assert not event.staged
    assert event.reason == "value cannot be serialized"
    assert f"it names a path in {tempfile.gettempdir()}" in event.detail
    assert "serializer='tree'" in event.detail


@pytest.mark.parametrize("serializer", ["pickle", "compressed"])
@pytest.mark.parametrize("kind", [Path, str])
def test_a_path_whose_file_is_gone_is_a_miss_that_says_so(closed, root, serializer, kind):
    """Outside of temporary directories it is kept, and worth nothing without its file."""
    made = root / "built" / "rows.csv"

    @cached(serializer=serializer)
    def build():
        ran("build")
        made.parent.mkdir(exist_ok=True)
        made.write_text("1")
        return {"rows": kind(made), "missing": kind(root / "never")}

    with closed:
        build()
        assert build()["rows"] == kind(made)
    assert times("build") == 1
    shutil.rmtree(made.parent)
    with closed:
        state = build.call()
        assert f"it names {made}, which is gone" in str(state.decision)
        assert made.exists()
        assert build.call().name == "Cached"
    assert times("build") == 2


def test_a_directory_that_a_fixture_built_and_that_is_gone(project):
    """Is built again; the run says why."""
    project.write(
        "test_suite.py",
        """
        from pathlib import Path
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session")
        def site():
            count("site")
            where = Path(__file__).parent / "site"
            where.mkdir()
            (where / "index.html").touch()
            return where

        def test_it(site):
            assert (site / "index.html").exists()
        """,
    )
    for _ in range(2):
        inner_runs.run(project).assert_outcomes(passed=1)
    assert project.counted("site") == 1
    shutil.rmtree(project.path / "site")
    result = inner_runs.run(project, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["taskcache: test_suite.py::site: * vanished: * site"])
    assert project.counted("site") == 2


def test_a_path_of_the_project_is_kept(cache, root):
    """Also where the project itself lies in a temporary directory."""

    @cached
    def here():
        return [str(root / "data.txt")]

    (root / "data.txt").write_text("1")
    assert (here(), here()) == ([str(root / "data.txt")],) * 2
    assert here.call().name == "Cached"
