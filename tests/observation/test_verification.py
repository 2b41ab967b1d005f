"""A trace is valid while everything it names is as it was, and asking costs next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from observed_project import MemoryShelf, Project, named

from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import Blob, Dependency, Kind, Trace
from pytest_taskcache.observation.code_log import code_dependency, decode_code
from pytest_taskcache.observation.hooks.dispatcher import listen, muted, silence
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.observation.trace_recorder import digest_of


class Counting:
    """Real fingerprints that count how often each digest is asked for."""

    def __init__(self, present: Present) -> None:
        self._present = present
        self.asked: Counter[tuple[Kind, str]] = Counter()
        self.forgotten = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._present, name)

    def digest(self, kind: Kind, name: str) -> str:
        self.asked[kind, name] += 1
        return self._present.digest(kind, name)

    def forget(self, path: str = "", *, tree: bool = False) -> None:
        self.forgotten += 1
        self._present.forget(path, tree=tree)


@pytest.fixture
def counted(project: Project):
    """The project with an armed observatory whose fingerprints count."""
    project.observatory.disarm()
    counting = Counting(Present(project.root, temporary=project.scratch))
    project.observatory = Observatory(counting, scratch=[project.scratch], own=[project.own])
    project.observatory.arm()
    yield counting
    project.observatory.disarm()


def trace_of(counting: Counting, *names: str, kind: Kind = Kind.FILE) -> Trace:
    found = tuple(sorted(Dependency(kind, name, counting.digest(kind, name)) for name in names))
    return Trace(found, digest_of(found))


def test_shared_dependencies_are_digested_once_for_all_traces(
    project: Project, counted: Counting
) -> None:
    """Ten thousand tests over one set of files cost one digest per file."""
    names = [f"data{number}" for number in range(5)]
    for name in names:
        project.write(name, name)
    traces = [trace_of(counted, *names[start:]) for start in range(5)]
    project.settle()
    project.settle()
    counted.asked.clear()

    project.observatory.prefetch(traces)
    assert [project.observatory.verify(trace) for trace in traces * 3] == [()] * 15
    assert set(counted.asked.values()) == {1}


def test_changes_are_named_eight_at_most(project: Project, counted: Counting) -> None:
    """A miss says what changed, and does not go on for pages."""
    names = [f"data{number:02}" for number in range(12)]
    for name in names:
        project.write(name, "1")
    trace = trace_of(counted, *names)
    for name in names:
        project.write(name, "2")

    changes = project.observatory.verify(trace)
    assert [change.name for change in changes] == names[:8]
    assert all(change.before != change.after for change in changes)


STIRS: dict[str, Callable[[Project], object]] = {
    "write": lambda project: project.write("data", "2"),
    "replace": lambda project: os.replace(project.write("new", "2"), "data"),
    "remove": lambda project: os.remove("data"),
    "child": lambda project: subprocess.run(["sh", "-c", "echo 2 > data"], check=True),
    "muted write": lambda project: _muted_write(project),
}


def _muted_write(project: Project) -> None:
    with muted():
        project.write("data", "2")


@pytest.mark.parametrize("how", STIRS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_change_made_by_this_process_is_noticed_at_once(
    project: Project, counted: Counting, how: str, inside: bool
) -> None:
    """A test that rewrites a file invalidates what later tests would have reused, whether it
    runs in a window or not."""
    project.write("data", "1")
    trace = trace_of(counted, "data")
    assert project.observatory.verify(trace) == ()
    window = project.observatory.open_window(None) if inside else None
    STIRS[how](project)
    if window is not None:
        window.close()

    assert [change.name for change in project.observatory.verify(trace)] == ["data"]


@pytest.mark.parametrize("kind", [Kind.STAT, Kind.FILE])
@pytest.mark.parametrize("how", ["remove", "rename"])
def test_what_a_window_found_before_it_removed_a_path_is_not_believed_later(
    project: Project, counted: Counting, how: str, kind: Kind
) -> None:
    """A test that looks whether a file is there, removes it and looks again sees it gone: the
    window took a digest of it just before."""
    project.write("data", "1")
    trace = trace_of(counted, "data", kind=kind)
    assert project.observatory.verify(trace) == ()
    window = project.observatory.open_window(None)
    assert os.path.exists("data")
    if how == "remove":
        os.remove("data")
    else:
        os.rename("data", "elsewhere")

    assert [change.name for change in project.observatory.verify(trace)] == ["data"]
    window.close()
    assert [change.name for change in project.observatory.verify(trace)] == ["data"]


def test_a_listing_taken_before_an_entry_went_is_not_believed_later(
    project: Project, counted: Counting
) -> None:
    """The same for a directory of which a file is removed."""
    project.write("d/a", "1")
    project.write("d/b", "1")
    trace = trace_of(counted, "d", kind=Kind.LISTING)
    assert project.observatory.verify(trace) == ()
    window = project.observatory.open_window(None)
    os.remove("d/a")
    window.close()
    assert [change.name for change in project.observatory.verify(trace)] == ["d"]


def unseen(path: str, text: str) -> None:
    """Writes as native code does: no event tells of it."""
    silence()
    try:
        with open(path, "w") as stream:
            stream.write(text)
    finally:
        listen()


def test_what_native_code_writes_is_seen_by_the_next_look(
    project: Project, counted: Counting
) -> None:
    """`polars.DataFrame.write_csv` rewrites a file that a cached function has read."""
    project.write("data", "1")
    trace = trace_of(counted, "data", "absent")
    assert project.observatory.verify(trace) == ()
    unseen("data", "2")
    assert [change.name for change in project.observatory.verify(trace)] == ["data"]
    unseen("data", "1")
    assert project.observatory.verify(trace) == ()
    unseen("absent", "")
    assert [change.name for change in project.observatory.verify(trace)] == ["absent"]


def test_what_native_code_puts_into_a_directory_is_seen_by_the_next_look(
    project: Project, counted: Counting
) -> None:
    """The listing is another one, though the directory is the same."""
    project.write("d/a", "")
    trace = trace_of(counted, "d", kind=Kind.LISTING)
    assert project.observatory.verify(trace) == ()
    unseen("d/b", "")
    assert [change.name for change in project.observatory.verify(trace)] == ["d"]


def test_what_native_code_wrote_is_recorded_as_it_was_read(
    project: Project, counted: Counting
) -> None:
    """A window that reads a file is not credited with the digest of an earlier look."""
    project.write("data", "1")
    before = trace_of(counted, "data")
    for _ in range(3):
        project.settle()
        assert project.observatory.verify(before) == ()
    unseen("data", "2")
    project.settle()
    window = project.observatory.open_window(None)
    with open("data") as stream:
        assert stream.read() == "2"
    recorded = window.close().trace
    unseen("data", "1")
    assert [change.name for change in project.observatory.verify(recorded)] == ["data"]


def test_while_a_child_lives_every_look_is_a_new_one(project: Project, counted: Counting) -> None:
    """A child that is not waited for changes files at its leisure, and no event tells."""
    project.write("data", "1")
    trace = trace_of(counted, "data")
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.readline(); open('data', 'w').write('2')"],
        stdin=subprocess.PIPE,
    )
    with child:
        assert project.observatory.verify(trace) == ()
        assert project.observatory.verify(trace) == ()
        child.communicate(b"go\n")
    assert [change.name for change in project.observatory.verify(trace)] == ["data"]


def test_a_look_while_a_child_lives_digests_only_what_may_differ(
    project: Project, counted: Counting
) -> None:
    """A server that a session keeps running must not make every hit read the project again."""
    project.write("data", "1")
    trace = trace_of(counted, "data")
    project.settle()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        time.sleep(0.06)  # times that are younger tell nothing
        assert project.observatory.verify(trace) == ()
        counted.asked.clear()
        assert project.observatory.verify(trace) == ()
        assert not counted.asked
        unseen("data", "2")
        assert [change.name for change in project.observatory.verify(trace)] == ["data"]
        child.communicate()


def test_looks_of_two_threads_end_when_theirs_do(project: Project, counted: Counting) -> None:
    """One that outlasts the other leaves no thread with what it once saw."""
    project.write("data", "1")
    counted.doubt(lambda: True)
    before = counted.digest(Kind.FILE, "data")
    entered, left = threading.Event(), threading.Event()

    def look() -> None:
        with counted.one_look():
            entered.set()
            left.wait(10)

    other = threading.Thread(target=look)
    with counted.one_look():
        other.start()
        entered.wait(10)
        assert counted.digest(Kind.FILE, "data") == before
        unseen("data", "2")
        assert counted.digest(Kind.FILE, "data") == before
    left.set()
    other.join()
    after = counted.digest(Kind.FILE, "data")
    assert after != before
    unseen("data", "1")
    assert counted.digest(Kind.FILE, "data") == before


def test_what_native_code_puts_beside_what_was_left_is_seen(project: Project) -> None:
    """A directory that the computation made is looked at as any other is, at each hit."""

    def build() -> None:
        os.makedirs("out", exist_ok=True)
        os.listdir("out")

    observed = project.observe(build)
    project.keep_parts(observed)
    assert project.observatory.verify(observed.trace) == ()
    unseen("out/other", "")
    changes = project.observatory.verify(observed.trace)
    assert [str(change) for change in changes] == ["listing changed: out"]


def test_what_cleans_up_after_multiprocessing_is_no_child_that_writes() -> None:
    """It lives until the run ends, in each run that used a lock of multiprocessing once."""
    code = """if True:
        import subprocess
        from multiprocessing import resource_tracker
        from pytest_taskcache.observation.hooks.opaque import has_children

        assert not has_children()
        resource_tracker.ensure_running()
        assert not has_children()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            assert has_children()
            child.communicate()
        assert not has_children()
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["log", "<tmp>/log"])
def test_a_handle_kept_open_for_writing_cannot_hide_a_change(
    project: Project, counted: Counting, name: str
) -> None:
    """Writes through a handle opened long ago raise no event; such a file is looked at afresh,
    also where it is a temporary one."""
    path = (project.scratch if "<" in name else project.root) / "log"
    path.write_text("1")
    with path.open("a") as handle:
        trace = trace_of(counted, name)
        assert project.observatory.verify(trace) == ()
        handle.write("more")
        handle.flush()
        assert len(project.observatory.verify(trace)) == 1


def test_a_source_that_is_open_for_writing_cannot_hide_a_change(project: Project) -> None:
    """What was concluded from a source that may still be written to is looked at again."""
    source = project.write("m.py", "def f(): return 1\n")
    module = project.load("m")
    with source.open("a"):
        observed = project.observe(module.f)
        project.keep_parts(observed)
        assert project.observatory.verify(observed.trace) == ()
        project.write("m.py", "def f(): return 2\n")
        changes = project.observatory.verify(observed.trace)
    assert [str(change) for change in changes] == ["function changed: m.py::f"]


def test_a_changed_variable_is_noticed_at_once(
    project: Project, counted: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable set for the rest of the session counts for what comes after."""
    monkeypatch.setenv("CITY", "Bonn")
    trace = trace_of(counted, "CITY", kind=Kind.ENVIRONMENT)
    assert project.observatory.verify(trace) == ()
    monkeypatch.setenv("CITY", "Köln")
    assert len(project.observatory.verify(trace)) == 1
    monkeypatch.undo()


def test_temporary_files_do_not_end_the_generation_of_the_projects_own(
    project: Project, counted: Counting
) -> None:
    """Tests that write to their temporary directory leave verification as cheap as it was."""
    project.write("data", "1")
    trace = trace_of(counted, "data")
    project.settle()
    project.settle()
    assert project.observatory.verify(trace) == ()
    project.observatory.note_start()
    counted.asked.clear()
    for number in range(5):
        (project.scratch / f"made{number}").write_text("x")
        assert project.observatory.verify(trace) == ()

    assert not counted.asked


def test_writing_one_file_of_the_project_asks_again_for_that_file_alone(
    project: Project, counted: Counting
) -> None:
    """Tests that write files cost what they write, not all that was ever verified."""
    names = [f"data{number}" for number in range(5)]
    for name in names:
        project.write(name, "1")
    project.settle()
    project.settle()
    trace = trace_of(counted, *names)
    assert project.observatory.verify(trace) == ()
    counted.asked.clear()
    project.write("data3", "1")

    assert project.observatory.verify(trace) == ()
    assert {name for kind, name in counted.asked if kind is Kind.FILE} == {"data3"}


def test_a_temporary_file_in_a_trace_is_noticed_when_it_appears(
    project: Project, counted: Counting
) -> None:
    """Where a trace does name a temporary path, writing there counts."""
    observed = project.observe(lambda: (project.scratch / "flag").exists())
    assert project.observatory.verify(observed.trace) == ()
    (project.scratch / "flag").write_text("x")

    assert [change.name for change in project.observatory.verify(observed.trace)] == ["<tmp>/flag"]


def test_a_consumer_inherits_what_it_reuses_with_the_digests_as_stored(
    project: Project, counted: Counting
) -> None:
    """A test that used a cached value is verified by what the value rests on."""
    project.write("data", "1")
    upstream = trace_of(counted, "data")
    window = project.window()
    window.absorb(upstream)
    observed = window.close()

    assert upstream.dependencies[0] in observed.trace.dependencies
    assert observed.untrusted == ()


def test_an_inherited_digest_that_no_longer_holds_is_not_trusted(
    project: Project, counted: Counting
) -> None:
    """What an upstream saw and what its consumer sees must agree."""
    path = project.write("data", "1")
    upstream = trace_of(counted, "data")
    path.write_text("2")
    window = project.window()
    window.absorb(upstream)
    path.read_text()

    assert "data changed while the computation ran" in window.close().untrusted


def test_a_part_that_the_log_of_another_process_shares_stays_when_the_own_log_goes_on(
    project: Project,
) -> None:
    """Parts are named by what is in them, so that one may be of two logs: what is reused still
    names that of the process that made it."""
    project.write("first.py", "def one():\n    return 1\n")
    observed = project.observe(project.load("first").one).trace
    (part,) = observed.uses
    reused = code_dependency("another", [part], 1, [0])
    found = tuple(sorted((*observed.dependencies, reused)))
    trace = Trace(found, digest_of(found), observed.uses)

    for size in (2**number for number in range(6, 15)):  # until it is one part with that
        names = [f"f{n}" for n in range(size)]
        lines = [*(f"def {name}(): pass" for name in names), "def run():"]
        project.write(f"m{size}.py", "\n".join([*lines, *(f"    {name}()" for name in names)]))
        project.observe(project.load(f"m{size}").run)
        renewed = project.observatory.renewed(trace)
        own = [each for each in renewed.dependencies if each.kind is Kind.CODE and each != reused]
        if all(part.digest not in decode_code(each).segments for each in own):
            break
    else:
        pytest.fail("the part was never merged with what came later")

    assert reused in renewed.dependencies
    assert part in renewed.uses


def test_traces_are_sorted_unique_and_shared(project: Project) -> None:
    """Storage keeps a trace once, however many tests have it."""
    project.write("b", "1")
    project.write("a", "1")

    def read() -> None:
        for name in ("b", "a", "b"):
            Path(name).read_text()

    project.observe(read)
    first, second = project.observe(read), project.observe(read)
    dependencies = first.trace.dependencies

    assert list(dependencies) == sorted(dependencies)
    assert len({(one.kind, one.name) for one in dependencies}) == len(dependencies)
    assert len(first.trace.digest) == 32
    assert second.trace == first.trace
    assert named(first, Kind.FILE) == {"a", "b"}


def test_different_traces_have_different_digests() -> None:
    """No two sets of dependencies can be confused, however their parts are cut."""
    left = digest_of([Dependency(Kind.FILE, "ab", "c")])
    right = digest_of([Dependency(Kind.FILE, "a", "bc")])

    assert left != right


def test_a_window_that_observed_nothing_says_so(project: Project) -> None:
    """Without arming, or after disarming, no record can be mistaken for a complete one."""
    unarmed = project.new_observatory().open_window(None).close()
    window = project.observatory.open_window(None)
    project.observatory.disarm()

    assert unarmed.untrusted != ()
    assert window.close().untrusted != ()


def test_closing_never_raises(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the observer itself fails, the computation's value stands and is not stored."""
    window = project.window()
    monkeypatch.setattr(project.observatory._recorder, "record", lambda window: 1 / 0)
    observed = window.close()

    assert "ZeroDivisionError" in observed.untrusted[0]
    assert window.close() is observed


def test_a_log_is_judged_once_however_far_its_records_came(project: Project) -> None:
    """The first record that is checked says how far the log had come for it; all of the log is
    read then, if it is still there, and no record makes it read again."""
    project.write("one.py", "def first():\n    return 1\n")
    two = project.write("two.py", "def second():\n    return 2\n")
    early = project.observe(project.load("one").first)
    project.keep_parts(early)
    late = project.observe(project.load("two").second)
    assert set(early.trace.uses) != set(late.trace.uses)
    two.write_text("def second():\n    return 3\n")

    read: list[str] = []

    def counted(blob: Blob) -> bytes | None:
        read.append(blob.digest)
        return project.parts.get(blob.digest)

    lost = project.new_observatory()
    lost.read_parts_by(counted)
    assert lost.verify(early.trace) == ()  # by what it says itself
    project.keep_parts(late)
    read.clear()
    later = project.new_observatory()
    later.read_parts_by(counted)
    assert later.verify(early.trace) == ()
    assert [change.name for change in later.verify(late.trace)] == ["two.py::second"]
    assert sorted(read) == sorted(blob.digest for blob in late.trace.uses)


def test_a_log_of_another_machine_is_read_further_only_where_that_may_tell_more(
    project: Project,
) -> None:
    """No shelf tells where all of it is. What is invalid by what is known of it stays so; what
    was seen of it is found at once by the next one."""
    one = project.write("one.py", "def first():\n    return 1\n")
    project.write("two.py", "def second():\n    return 2\n")
    early = project.observe(project.load("one").first)
    project.keep_parts(early)
    second = project.load("two").second
    late = project.observe(second)
    late_and_first = project.observe(lambda: (second(), project.load("one").first()))
    for each in (late, late_and_first):
        project.keep_parts(each)
    one.write_text("def first():\n    return 3\n")
    for section in [each for each in project.shelf.sections if each.startswith("code.heads")]:
        del project.shelf.sections[section]

    read: list[str] = []

    def counted(blob: Blob) -> bytes | None:
        read.append(blob.digest)
        return project.parts.get(blob.digest)

    for further in (True, False):
        other = project.new_observatory()
        other.read_parts_by(counted)
        assert [change.name for change in other.verify(early.trace)] == ["one.py::first"]
        read.clear()
        assert other.verify(late_and_first.trace)
        assert not read
        assert other.verify(late.trace) == ()
        assert bool(read) is further
        other.save()


class Failing(MemoryShelf):
    """A shelf that cannot be read at first."""

    def __init__(self, sections: dict[str, dict[str, bytes]]) -> None:
        super().__init__()
        self.sections = sections
        self.failures = 1

    def read(self, section: str) -> Mapping[str, bytes]:
        if section.startswith("source") and self.failures:
            self.failures -= 1
            raise OSError("disk I/O error")
        return super().read(section)


def test_a_fault_while_code_is_compared_leaves_nothing_valid(project: Project) -> None:
    """Who asks after one whose comparison failed is told what a first one would have been."""
    project.write("app.py", "def f(): return 1\n")
    observed = project.observe(project.load("app").f)
    project.keep_parts(observed)
    project.write("app.py", "def f(): return 2\n")
    later = project.new_observatory()
    later.keep_on(Failing(project.shelf.sections))

    with pytest.raises(OSError, match="disk I/O error"):
        later.verify(observed.trace)
    assert [str(change) for change in later.verify(observed.trace)] == [
        "function changed: app.py::f"
    ]
