"""Which files count: what was read, listed, looked at or missed; not what was made here."""

from __future__ import annotations

import glob
import mmap
import os
import pickle
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from observed_project import Project, named

from pytest_taskcache.model.dependency import ABSENT, Kind
from pytest_taskcache.observation.hooks.dispatcher import muted

READS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: open(path).close(),
    "open bytes path": lambda path: open(os.fsencode(path)).close(),
    "open relative": lambda path: open(path.name).close(),
    "read_text": lambda path: path.read_text(),
    "os.open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "update in place": lambda path: open(path, "r+").close(),
}


@pytest.mark.parametrize("how", READS)
def test_reading_a_file_counts(project: Project, how: str) -> None:
    """However a file is opened, changing it re-runs its reader, touching it does not."""
    path = project.write("data.csv", "1")
    observed = project.observe(READS[how], path)

    assert named(observed, Kind.FILE) == {"data.csv"}
    assert project.changes(observed) == []
    os.utime(path)
    assert project.changes(observed) == []
    path.write_text("2")
    assert project.changes(observed) == ["file changed: data.csv"]


def test_a_memory_mapped_file_counts(project: Project) -> None:
    """A mapping is read without further calls, but its file was opened."""
    path = project.write("data.bin", "x" * 5000)

    def read() -> bytes:
        with (
            open(path, "rb") as handle,
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            return mapped[:10]

    assert named(project.observe(read), Kind.FILE) == {"data.bin"}


def test_a_file_that_was_missed_counts_by_its_absence(project: Project) -> None:
    """When a file appears that was looked for in vain, the computation runs again."""

    def read() -> None:
        with pytest.raises(FileNotFoundError):
            Path.read_text(Path("missing.ini"))

    observed = project.observe(read)

    assert ("file", "missing.ini", ABSENT) in observed.trace.dependencies
    assert project.changes(observed) == []
    project.write("missing.ini")
    assert project.changes(observed) == ["file appeared: missing.ini"]


LOOKS: dict[str, Callable[[Path], object]] = {
    "os.path.exists": os.path.exists,
    "os.path.isfile": os.path.isfile,
    "os.path.getsize": os.path.getsize,
    "Path.exists": Path.exists,
    "Path.is_file": Path.is_file,
    "os.access": lambda path: os.access(path, os.R_OK),
    "os.lstat": lambda path: os.lstat(path),
    "shutil.which": lambda path: shutil.which(path.name, path=str(path.parent)),
}


@pytest.mark.parametrize("how", LOOKS)
def test_looking_at_a_file_counts(project: Project, how: str) -> None:
    """Existence, type, mode and size are dependencies, content is not."""
    path = project.write("data.csv", "1")
    path.chmod(0o755)
    observed = project.observe(LOOKS[how], path)

    assert named(observed, Kind.STAT) == {"data.csv"}
    assert named(observed, Kind.FILE) == set()
    path.write_text("2")
    assert project.changes(observed) == []
    path.unlink()
    assert project.changes(observed) == ["stat vanished: data.csv"]


def test_a_file_mode_counts_where_it_was_looked_at(project: Project) -> None:
    """A test of executable bits runs again when they change."""
    path = project.write("tool.sh")
    path.chmod(0o644)
    observed = project.observe(lambda: os.access(path, os.X_OK))
    path.chmod(0o755)

    assert project.changes(observed) == ["stat changed: tool.sh"]


LISTINGS: dict[str, Callable[[Path], object]] = {
    "os.listdir": os.listdir,
    "os.scandir": lambda path: list(os.scandir(path)),
    "os.walk": lambda path: list(os.walk(path)),
    "iterdir": lambda path: list(path.iterdir()),
    "glob.glob": lambda path: glob.glob(str(path / "*.csv")),
    "Path.glob": lambda path: list(path.glob("*.csv")),
    "Path.rglob": lambda path: list(path.rglob("*.csv")),
}


@pytest.mark.parametrize("how", LISTINGS)
def test_listing_a_directory_counts(project: Project, how: str) -> None:
    """A new file that a glob would match re-runs whoever globbed; a changed one does not."""
    project.write("data/a.csv")
    observed = project.observe(LISTINGS[how], project.root / "data")

    assert "data" in named(observed, Kind.LISTING)
    assert project.changes(observed) == []
    if how != "os.scandir":  # its entries may be asked for more than their names, unseen
        project.write("data/a.csv", "longer")
        assert project.changes(observed) == []
    project.write("data/b.csv")
    assert project.changes(observed) == ["listing changed: data"]


def test_a_glob_without_wildcards_counts_as_a_look(project: Project) -> None:
    """On every version, ``Path.glob`` of a plain name notices when the file appears."""
    observed = project.observe(lambda: list(project.root.glob("settings.toml")))
    project.write("settings.toml")

    assert project.changes(observed) != []


def test_a_sqlite_database_counts_as_it_was_before(project: Project) -> None:
    """A database is no ordinary open; what the test itself writes into it does not count."""
    path = project.root / "data.db"
    connection = sqlite3.connect(path)
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()

    def read() -> None:
        reader = sqlite3.connect(path)
        reader.execute("select * from t").fetchall()
        reader.close()

    observed = project.observe(read)
    assert named(observed, Kind.FILE) == {"data.db"}
    assert project.changes(observed) == []

    def write() -> None:
        writer = sqlite3.connect(path)
        writer.execute("insert into t values (1)")
        writer.commit()
        writer.close()

    changed = project.observe(write)
    assert changed.untrusted == ()
    assert project.changes(changed) == ["file changed: data.db"]
    assert project.changes(observed) == ["file changed: data.db"]


def test_in_memory_databases_do_not_count(project: Project) -> None:
    """``:memory:`` names no file."""
    observed = project.observe(
        lambda: (
            sqlite3.connect(":memory:").close(),
            sqlite3.connect("file:x?mode=memory", uri=True).close(),
        )
    )
    assert named(observed, Kind.FILE) == set()


def test_what_the_computation_wrote_first_does_not_count(project: Project) -> None:
    """A test that writes its own file and reads it back depends on nothing that was there."""

    def build() -> None:
        (project.root / "out").mkdir()
        path = project.root / "out" / "result.txt"
        path.write_text("1")
        assert path.exists()
        path.read_text()
        assert os.listdir(path.parent) == ["result.txt"]
        assert not (path.parent / "other").exists()
        os.replace(path, path.with_suffix(".bak"))
        path.with_suffix(".bak").read_text()

    observed = project.observe(build)

    assert named(observed, Kind.FILE) | named(observed, Kind.STAT) == set()
    assert named(observed, Kind.LISTING) == set()
    assert project.changes(observed) == []
    assert observed.untrusted == ()
    shutil.rmtree(project.root / "out")
    assert project.changes(observed) == []


def test_what_the_computation_left_counts_while_it_is_there(project: Project) -> None:
    """Others may put something beside it, or change it, and it would be found there; where all of
    it is gone, it is made anew."""

    def build() -> None:
        out = project.root / "out"
        out.mkdir(exist_ok=True)
        os.close(os.open(out / "once", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        (out / "each").write_text("1")
        os.listdir(out)
        (out / "once").read_text()
        (out / "each").read_text()

    observed = project.observe(build)

    assert named(observed, Kind.LEFT) == {"listing out", "file out/once"}
    assert project.changes(observed) == []
    project.write("out/each", "2")
    assert project.changes(observed) == []
    project.write("out/once", "2")
    assert [str(change) for change in project.changes(observed)] == ["file changed: out/once"]
    project.write("out/other", "")
    assert "listing changed: out" in map(str, project.changes(observed))
    shutil.rmtree(project.root / "out")
    assert project.changes(observed) == []


def test_what_was_read_before_it_was_rewritten_counts_as_it_was(project: Project) -> None:
    """A test that updates a file depends on what the file held before."""
    path = project.write("counter", "1")

    def update() -> None:
        path.write_text(str(int(path.read_text()) + 1))

    observed = project.observe(update)

    assert observed.untrusted == ()
    assert project.changes(observed) == ["file changed: counter"]
    path.write_text("1")
    assert project.changes(observed) == []


def test_appending_and_then_reading_depends_on_what_was_there(project: Project) -> None:
    """Appending alone depends on nothing; reading the whole depends on the old part."""
    path = project.write("log", "old")

    def append() -> None:
        with open(path, "a") as handle:
            handle.write("new")

    assert named(project.observe(append), Kind.FILE) == set()
    path.write_text("old")
    observed = project.observe(lambda: (append(), path.read_text()))
    path.write_text("old")
    assert named(observed, Kind.FILE) == {"log"}
    assert project.changes(observed) == []
    path.write_text("other")
    assert project.changes(observed) == ["file changed: log"]


def test_a_listing_counts_as_it_was_before_the_computation_added_to_it(project: Project) -> None:
    """A test that drops a file into a directory and lists it is a hit once that is cleaned up."""
    project.write("data/a.csv")

    def add() -> None:
        (project.root / "data" / "mine").write_text("x")
        os.listdir(project.root / "data")

    observed = project.observe(add)
    (project.root / "data" / "mine").unlink()

    assert named(observed, Kind.LISTING) == {"data"}
    assert project.changes(observed) == []
    project.write("data/b.csv")
    assert project.changes(observed) == ["listing changed: data"]


def test_removing_a_file_depends_on_its_being_there(project: Project) -> None:
    """A test that deletes a file it did not make is no hit once the file is gone."""
    path = project.write("victim")
    observed = project.observe(path.unlink)

    assert project.changes(observed) == ["stat vanished: victim"]


def test_reading_through_a_link_made_here_depends_on_the_source(project: Project) -> None:
    """A test that links project data into its own directory still depends on the data."""
    project.write("data/a.csv", "1")
    place = Path(tempfile.mkdtemp(dir=project.scratch))

    def read() -> None:
        (place / "linked").symlink_to(project.root / "data")
        (place / "linked" / "a.csv").read_text()

    observed = project.observe(read)

    assert named(observed, Kind.FILE) == {"data/a.csv"}


@pytest.mark.parametrize("where", ["runner", "system"])
def test_a_fixtures_temporary_file_counts_by_the_fixture(project: Project, where: str) -> None:
    """A session fixture's temporary files are derived: its users inherit what it rests on, and
    are looked up before the files exist in the next session."""
    made: list[Path] = []
    directory = project.scratch if where == "runner" else None

    def fixture() -> None:
        made.append(Path(tempfile.mkdtemp(dir=directory)))
        (made[0] / "data.json").write_text("{}")

    def user() -> None:
        (made[0] / "data.json").read_text()
        os.listdir(made[0])

    try:
        shared = project.observe(fixture)
        window = project.window()
        window.absorb(shared.trace)
        user()
        observed = window.close()
        stranger = project.observe(user)
    finally:
        shutil.rmtree(made[0])

    assert named(observed, Kind.FILE) | named(observed, Kind.LISTING) == set()
    assert len(named(stranger, Kind.FILE)) == len(named(stranger, Kind.LISTING)) == 1


def test_a_file_written_around_an_inner_computation_counts_for_it_alone(project: Project) -> None:
    """A cached function that reads what the test wrote depends on the content; the test does
    not depend on its own file, on a miss or on a hit."""
    path = project.scratch / "input.txt"
    outer = project.window()
    path.write_text("1")
    inner = project.observe(path.read_text)
    outer.absorb(inner.trace)
    around = outer.close()

    assert named(inner, Kind.FILE) == {"<tmp>/input.txt"}
    assert named(around, Kind.FILE) == set()
    assert around.untrusted == ()
    path.write_text("2")
    assert [change.name for change in project.observatory.verify(inner.trace)] == [
        "<tmp>/input.txt"
    ]


def test_a_temporary_file_that_an_import_made_is_derived(project: Project) -> None:
    """What an import puts into a temporary directory is no dependency, until others change it."""
    path = project.scratch / "made" / "x"
    text = "made.mkdir()\n(made / 'x').write_text('x')\n"
    body = compile(text, str(project.root / "maker.py"), "exec")
    exec(body, {"__name__": "maker", "made": path.parent})
    observed = project.observe(path.read_text)
    assert named(observed, Kind.FILE) == set()

    project.observatory.note_start()
    path.write_text("y")
    assert named(project.observe(path.read_text), Kind.FILE) == {"<tmp>/made/x"}


def test_a_temporary_file_made_outside_of_every_window_counts(project: Project) -> None:
    """What a test wrote that is not cached itself is what a cached function reads, however young
    it is."""
    project.observatory.note_start()
    path = project.scratch / "made" / "x"
    path.parent.mkdir()
    path.write_text("1")
    observed = project.observe(path.read_text)

    assert named(observed, Kind.FILE) == {"<tmp>/made/x"}
    assert observed.untrusted == ()
    path.write_text("2")
    assert project.changes(observed) == ["file changed: <tmp>/made/x"]


def test_a_missing_temporary_file_counts_relative_to_the_run(project: Project) -> None:
    """Temporary paths are the same in every run, whatever the directory is called."""
    observed = project.observe(lambda: (project.scratch / "flag").exists())

    assert named(observed, Kind.STAT) == {"<tmp>/flag"}
    assert project.changes(observed) == []


def test_the_working_directory_is_followed(project: Project, monkeypatch) -> None:
    """A relative path means what it meant when it was used."""
    project.write("sub/data.csv", "1")

    def read() -> None:
        monkeypatch.chdir(project.root / "sub")
        Path("data.csv").read_text()
        monkeypatch.chdir(project.root)

    assert named(project.observe(read), Kind.FILE) == {"sub/data.csv"}


def test_each_working_directory_of_a_process_counts(project: Project, monkeypatch) -> None:
    """A call in one directory is no hit in another, whichever were asked for before."""
    project.write("sub/data.csv", "1")
    project.write("data.csv", "0")

    above = project.observe(Path("data.csv").read_text)
    monkeypatch.chdir(project.root / "sub")
    assert project.changes(above) == ["working directory changed: ."]
    below = project.observe(Path("data.csv").read_text)
    assert project.changes(below) == []
    monkeypatch.chdir(project.root)
    assert project.changes(above) == []
    assert project.changes(below) == ["working directory changed: ."]


def test_muted_reads_and_the_caches_own_files_do_not_count(project: Project) -> None:
    """What the cache does for itself ties no trace to anything."""
    path = project.write("data.csv", "1")
    own = project.write(".cache/index", "1")

    def read() -> None:
        with muted():
            path.read_text()
            path.exists()
            os.listdir(path.parent)
        own.read_text()
        own.exists()

    kinds = {dependency.kind for dependency in project.observe(read).trace.dependencies}
    assert kinds == {Kind.CODE, Kind.INTERPRETER}


def test_library_and_kernel_files_do_not_count(project: Project) -> None:
    """The standard library, installed packages, bytecode, /proc and /dev are no dependencies."""

    def read() -> None:
        Path(os.__file__).read_text()
        Path(pytest.__file__).read_text()
        Path("/proc/self/status").read_text()
        os.listdir("/proc")
        open(os.devnull).close()
        project.load("json.tool")

    observed = project.observe(read)

    assert named(observed, Kind.FILE) | named(observed, Kind.STAT) == set()
    assert named(observed, Kind.LISTING) == set()


def test_resolving_a_path_does_not_tie_a_trace_to_its_checkout(project: Project) -> None:
    """``Path(__file__).resolve()`` asks about every directory above; none of them counts."""
    project.write("data.csv")
    observed = project.observe(lambda: (project.root / "data.csv").resolve())

    assert not [name for name in named(observed, Kind.STAT) if name.startswith("/")]


def test_source_lines_of_a_rendered_traceback_do_not_count(project: Project) -> None:
    """A formatted exception shows comments, but no result hangs on them."""
    project.write(
        "m.py",
        """
        import linecache, traceback
        def fail(): raise ValueError  # a comment
        def render():
            linecache.clearcache()
            try:
                fail()
            except ValueError:
                return traceback.format_exc()
        """,
    )
    module = project.load("m")

    assert named(project.observe(module.render), Kind.FILE) == set()


def test_a_wrapper_around_a_look_is_not_who_looks(project: Project) -> None:
    """What is wrapped around `os.stat` looks for whoever called it: `traceback`, which shows lines,
    or the project."""
    project.write(
        "m.py",
        """
        import os, traceback
        def fail(): raise ValueError
        def render():
            try:
                fail()
            except ValueError:
                return traceback.format_exc(), os.path.exists("data.csv")
        """,
    )
    module = project.load("m")

    def look() -> None:
        with pytest.MonkeyPatch.context() as patch:
            replaced = os.stat
            patch.setattr(os, "stat", lambda path, **options: replaced(path, **options))
            module.render()

    assert named(project.observe(look), Kind.STAT) == {"data.csv"}


def test_a_directory_given_to_a_reader_in_native_code_counts_with_all_below(
    project: Project,
) -> None:
    """Which files there are, at any depth, and what is in them."""
    project.write("pyogrio.py", "def read_dataframe(path): pass\n")
    project.write("in/a.csv")
    project.write("in/below/b.csv")
    module = project.load("pyogrio")
    observed = project.observe(lambda: module.read_dataframe(project.root / "in"))

    assert {"in", "in/below"} <= named(observed, Kind.LISTING)
    assert {"in/a.csv", "in/below/b.csv"} <= named(observed, Kind.FILE)


def test_source_text_that_was_asked_for_counts(project: Project) -> None:
    """``inspect.getsource`` is a read: code that works on source depends on its text."""
    project.write(
        "m.py",
        """
        import inspect, linecache
        def f(): return 1
        def source():
            linecache.clearcache()
            return inspect.getsource(f)
        """,
    )
    module = project.load("m")

    assert "m.py" in named(project.observe(module.source), Kind.FILE)


def test_a_file_changed_by_someone_else_meanwhile_is_not_trusted(project: Project) -> None:
    """An edit during the run cannot pair the old result with the new file."""
    path = project.write("data.csv", "1")

    def read() -> None:
        path.read_text()
        with muted():  # another process, as far as the window can tell
            project.settle()
            path.write_text("2")

    observed = project.observe(read)

    assert any("data.csv changed while" in reason for reason in observed.untrusted)


def test_nothing_breaks_on_odd_paths(project: Project) -> None:
    """Hooks never raise: descriptors, null bytes, fifos, a path object that fails, a vanished
    working directory all behave as without the plugin."""
    fifo = project.root / "pipe"
    os.mkfifo(fifo)

    class Hostile:
        def __fspath__(self) -> str:
            raise RuntimeError("no path today")

    def act() -> None:
        os.stat(fifo)
        os.stat(0)
        with pytest.raises(ValueError, match="null"):
            os.stat("a\0b")
        with pytest.raises(ValueError, match="null"):
            Path.read_text(Path("a\0b"))
        with pytest.raises(RuntimeError, match="no path today"):
            os.stat(Hostile())
        with pytest.raises(RuntimeError, match="no path today"):
            os.open(Hostile(), os.O_RDONLY)
        with pytest.raises(TypeError):
            os.stat(None)
        descriptor = os.open(project.root, os.O_RDONLY)
        os.listdir(descriptor)
        os.stat("pipe", dir_fd=descriptor)
        os.close(descriptor)
        open(b"\xff\xfe", "w").close()
        os.remove(b"\xff\xfe")
        gone = project.root / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        with pytest.raises(FileNotFoundError):
            Path.read_text(Path("relative"))
        assert not os.path.exists("relative")
        os.chdir(project.root)

    observed = project.observe(act)

    assert "pipe" in named(observed, Kind.STAT)
    assert not observed.untrusted


def test_what_a_hook_fails_at_is_believed_by_nobody(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read goes on; nothing that was open then is kept, and the next window is as ever."""
    path = project.write("data.txt", "1")

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(type(project.observatory), "on_read", fail)
        failed = project.observe(path.read_text)
    after = project.observe(path.read_text)

    assert failed.untrusted == ("the cache could not observe something (RuntimeError: a bug)",)
    assert not after.untrusted
    assert named(after, Kind.FILE) == {"data.txt"}


def test_wrapped_functions_keep_their_abilities(project: Project) -> None:
    """Code that asks what `os.stat` supports, or pickles it, gets the answers it always got."""
    assert os.stat in os.supports_fd
    assert os.stat in os.supports_dir_fd
    assert os.access in os.supports_effective_ids
    assert os.stat in os.supports_follow_symlinks
    dumped = pickle.dumps(os.stat)
    project.observatory.disarm()
    assert pickle.loads(dumped) is os.stat
    assert type(os.stat).__name__ == "builtin_function_or_method"
    assert os.stat in os.supports_fd


def test_removing_a_tree_of_ones_own_counts_for_nothing(project: Project) -> None:
    """`shutil.rmtree` works by descriptors and bare names; none is mistaken for a path."""
    project.write("name", "bait: a file of the same name in the working directory")

    def act() -> None:
        place = Path(tempfile.mkdtemp(dir=project.scratch))
        (place / "name").write_text("x")
        shutil.rmtree(place)

    observed = project.observe(act)
    assert named(observed, Kind.FILE) | named(observed, Kind.STAT) == set()
    assert named(observed, Kind.LISTING) == set()


def test_a_read_after_the_caches_own_read_of_the_same_path_counts(project: Project) -> None:
    """What the cache looked at for itself is not thereby known: the computation's own look
    comes later and counts."""
    path = project.write("data.csv", "1")

    def act() -> None:
        with project.observatory.muted():
            path.exists()
            path.read_text()
            os.environ.get("CITY")
        path.exists()
        path.read_text()
        os.environ.get("CITY")

    observed = project.observe(act)

    assert named(observed, Kind.FILE) == named(observed, Kind.STAT) == {"data.csv"}
    assert named(observed, Kind.ENVIRONMENT) == {"CITY"}
