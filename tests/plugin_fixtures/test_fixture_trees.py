"""Directories and files as fixtures' values: stored whole, restored afresh."""

from __future__ import annotations

import pytest
from nested_runs import cold_then_warm, run
from projects import Project

TREE = """
    import pathlib
    import pytest
    from counter import count
    from pytest_taskcache import cached_fixture, tree

    @cached_fixture(scope={scope!r}{serializer})
    def made(tmp_path_factory):
        count("made")
        root = tmp_path_factory.mktemp("data")
        (root / "sub").mkdir()
        (root / "sub" / "a.txt").write_text("alpha")
        (root / "b.bin").write_bytes(bytes(range(256)))
        (root / "link").symlink_to("b.bin")
        return root{part}
"""


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize("serializer", ["", ", serializer='tree'", ", serializer=tree()"])
def test_a_directory_is_restored_whole(project: Project, scope: str, serializer: str) -> None:
    """On a hit the path leads to a fresh copy under the new run's temporary directory."""
    project.write(
        "test_suite.py",
        TREE.format(scope=scope, serializer=serializer, part="")
        + """
    def test_it(made, tmp_path_factory):
        assert made.is_relative_to(tmp_path_factory.getbasetemp())
        assert (made / "sub" / "a.txt").read_text() == "alpha"
        assert (made / "link").read_bytes() == bytes(range(256))
        assert (made / "link").is_symlink()
        (made / "b.bin").write_bytes(b"changed")
        (made / "new").mkdir()
    """,
    )
    cold_then_warm(project, computed=1, passed=1)
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 1


def test_a_file_is_restored(project: Project) -> None:
    """A path of one file comes back under its name."""
    project.write(
        "test_suite.py",
        TREE.format(scope="module", serializer="", part=" / 'sub' / 'a.txt'")
        + """
    def test_it(made, tmp_path_factory):
        assert made.is_relative_to(tmp_path_factory.getbasetemp())
        assert made.name == "a.txt" and made.read_text() == "alpha"
    """,
    )
    cold_then_warm(project, computed=1, passed=1)


def test_a_read_only_tree_is_read_only(project: Project) -> None:
    """``tree(readonly=True)``: restored without write bits, and an attempt to write harms nothing
    that is stored."""
    project.write(
        "test_suite.py",
        TREE.format(scope="module", serializer=", serializer=tree(readonly=True)", part="")
        + """
    def test_it(made):
        assert (made / "sub" / "a.txt").read_text() == "alpha"
        hit = (made / "sub" / "a.txt").stat().st_mode & 0o222 == 0
        count("restored read-only" if hit else "made")
    """,
    )
    run(project).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)
    assert project.counted("restored read-only") == 1
    run(project).assert_outcomes(passed=1)
    assert project.counted("made") == 2  # the body, and its own first test


def test_a_tree_elsewhere_is_a_path_and_no_more(project: Project) -> None:
    """Only what lies under pytest's temporary directory is stored as a tree."""
    project.write("kept/file", "one")
    project.write(
        "test_suite.py",
        """
        import pathlib
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            return pathlib.Path(__file__).parent / "kept"

        def test_it(data):
            assert data == pathlib.Path(__file__).parent / "kept"
            assert (data / "file").exists()
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


CONSUMER = """
    @cached_fixture(scope={scope!r})
    def read(made):
        count("read")
        return {{p.name: p.read_text() for p in sorted(made.rglob("*.txt"))}}

    def test_it(read):
        assert read == {{"a.txt": TEXT}}

    def test_other(read):
        assert read == {{"a.txt": TEXT}}
"""


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_consumer_of_a_tree_is_a_hit_in_a_warm_run(project: Project, scope: str) -> None:
    """What reads a restored tree depends on its content, not on where it was restored; edits of
    either fixture recompute what they must, and then both are hits again."""
    suite = (
        TREE.format(scope="session", serializer="", part="").replace('"alpha"', "TEXT")
        + CONSUMER.format(scope=scope)
    ).replace("import pathlib", "import pathlib\n    from given import TEXT")
    project.write("given.py", "TEXT = 'alpha'\n")
    project.write("test_suite.py", suite)
    cold_then_warm(project, computed=2, passed=2)
    project.write("test_suite.py", suite.replace("p.read_text() for", "str(p.read_text()) for"))
    run(project, "-v").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("read")) == (1, 2)
    run(project, "-v").assert_outcomes(passed=2)
    run(project, "-v").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("read")) == (1, 2)
    project.write("given.py", "TEXT = 'beta'\n")
    run(project, "-v").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("read")) == (2, 3)
    run(project, "-v").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("read")) == (2, 3)


def test_a_consumer_in_another_place_of_the_suite_is_a_hit(project: Project) -> None:
    """Which tests ran before, and so which temporary directories exist, does not matter."""
    suite = TREE.format(scope="session", serializer="", part="") + CONSUMER.format(scope="function")
    project.write("conftest.py", suite.split("    def test_it")[0])
    project.write("test_b.py", "def test_it(read):\n    assert read == {'a.txt': 'alpha'}\n")
    # in a worker, whose record names nothing of the modules of this very test run
    cold_then_warm(project, "-n1", computed=2, passed=1)
    project.write(
        "test_a.py",
        """
        def test_first(tmp_path_factory, tmp_path):
            tmp_path_factory.mktemp("data")
            tmp_path_factory.mktemp("taskcache")
        """,
    )
    run(project, "-v").assert_outcomes(passed=2)
    run(project, "-n1").assert_outcomes(passed=2)
    assert project.counted() == 2


def test_a_tree_that_a_test_changed_counts_as_it_is(project: Project) -> None:
    """A session's tree that one test writes to: a fixture made from it afterwards is not served
    what belongs to the unchanged tree."""
    suite = (
        TREE.format(scope="session", serializer="", part="")
        + """
    def test_a(made):
        CHANGE

    @cached_fixture
    def read(made):
        count("read")
        return (made / "sub" / "a.txt").read_text()

    def test_b(read, made):
        assert read == (made / "sub" / "a.txt").read_text()
    """
    )
    project.write("test_suite.py", suite.replace("CHANGE", "pass"))
    cold_then_warm(project, computed=2, passed=2)
    changed = suite.replace("CHANGE", '(made / "sub" / "a.txt").write_text("other")')
    project.write("test_suite.py", changed)
    run(project, "-v").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("read")) == (1, 2)


def test_a_test_that_uses_a_restored_tree_may_be_cached_itself(project: Project) -> None:
    """Its outcome does not depend on where the tree was restored."""
    project.write(
        "test_suite.py",
        TREE.format(scope="session", serializer="", part="")
        + """
    @pytest.mark.cached
    def test_it(made):
        count("test")
        assert (made / "sub" / "a.txt").read_text() == "alpha"

    def test_other(made):
        assert (made / "sub" / "a.txt").read_text() == "alpha"
    """,
    )
    cold_then_warm(project, computed=2, passed=2)
    run(project, "--cache-refresh-only=test_it").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("test")) == (1, 2)
    run(project, "-v").assert_outcomes(passed=2)
    run(project, "-v").assert_outcomes(passed=2)
    assert (project.counted("made"), project.counted("test")) == (1, 2)


NAMING = {
    "text": "{'path': str(root)}",
    "path": "{'path': root}",
    "deep": "[({'path': root / 'file'},)]",
    "json": "{'path': str(root)}",
    "text itself": "str(root / 'file')",
}


@pytest.mark.parametrize("how", NAMING)
def test_a_value_that_names_the_temporary_directory_is_not_kept(project: Project, how: str) -> None:
    """The next run would be handed a path that is gone, or that another run still writes to: the
    fixture is made each time, and the reason says what to return instead."""
    serializer = "serializer='json'" if how == "json" else ""
    project.write(
        "test_suite.py",
        f"""
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture({serializer})
        def data(tmp_path):
            count("body")
            root = tmp_path / "made"
            root.mkdir()
            (root / "file").write_text("x")
            return {NAMING[how]}

        def test_it(data, tmp_path):
            assert (tmp_path / "made" / "file").exists()
        """,
    )
    run(project).assert_outcomes(passed=1)
    second = run(project, "-v")
    second.assert_outcomes(passed=1)
    assert project.counted() == 2
    second.stdout.fnmatch_lines(["*it names a path in *return the directory or file itself*"])


def test_paths_elsewhere_are_kept(project: Project) -> None:
    """A path of the project in a value is a value like any other."""
    project.write(
        "test_suite.py",
        """
        import pathlib
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(tmp_path):
            count("body")
            return {"path": pathlib.Path(__file__), "name": tmp_path.parent.name}

        def test_it(data):
            assert data["path"] == pathlib.Path(__file__)
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


OF_ANOTHER = {
    "a part": ("repo / 'a'", "data.parent == repo"),
    "the same": ("repo", "data == repo"),
    "a new file": ("(repo / 'b').write_text('2')", "(repo / 'b').read_text() == '2'"),
    "its content": ("(repo / 'a').read_text()", "data == '1'"),
}


@pytest.mark.parametrize("what", OF_ANOTHER)
def test_a_path_in_the_tree_of_another_fixture(project: Project, what: str) -> None:
    """A copy of it would lie elsewhere, and what was written there would be missing."""
    value, check = OF_ANOTHER[what]
    project.write(
        "test_suite.py",
        f"""
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def repo(tmp_path_factory):
            made = tmp_path_factory.mktemp("repo")
            (made / "a").write_text("1")
            return made

        @cached_fixture
        def data(repo):
            count("body")
            return {value}

        def test_it(data, repo):
            assert {check}
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=1)
    assert project.counted() == (1 if what == "its content" else 2)
