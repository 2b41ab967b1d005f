"""Digests of whatever a path may be: they tell changes apart, and nothing hangs or raises."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from pytest_taskcache.changed_paths import is_racy
from pytest_taskcache.digests import files
from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import ABSENT, Kind


def test_content_counts_and_times_do_not(project) -> None:
    """Touching a file changes nothing, and writing the old content back restores its digest."""
    path = project.root / "data.txt"
    path.write_text("one")
    before = project.session().digest(Kind.FILE, "data.txt")
    os.utime(path, (1, 1))
    assert project.session().digest(Kind.FILE, "data.txt") == before
    path.write_text("two")
    assert project.session().digest(Kind.FILE, "data.txt") != before
    path.write_text("one")
    assert project.session().digest(Kind.FILE, "data.txt") == before


def test_absence_is_a_digest(project) -> None:
    """What does not exist is ABSENT in every kind, also below a file."""
    (project.root / "file").write_text("")
    for kind in (Kind.FILE, Kind.STAT, Kind.LISTING, Kind.SOURCE):
        assert project.session().digest(kind, "none") == ABSENT
        assert project.session().digest(kind, "file/below") == ABSENT
    assert project.session().digest(Kind.IMPORT, "no_such_module_anywhere") == ABSENT


def test_present_digest_stands_until_forget(project) -> None:
    """Within a session a digest is asked for once, until something may have changed."""
    path = project.root / "data.txt"
    path.write_text("one")
    present = project.session()
    before = present.digest(Kind.FILE, "data.txt")
    path.write_text("two")
    assert present.digest(Kind.FILE, "data.txt") == before
    present.forget()
    assert present.digest(Kind.FILE, "data.txt") != before


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.STAT, Kind.LISTING, Kind.SOURCE])
def test_fifos_and_sockets_are_not_opened(project, kind) -> None:
    """A fifo without a writer, or a socket, gets a digest at once; it holds no source."""
    os.mkfifo(project.root / "pipe.py")
    expected = len(ABSENT) if kind is Kind.SOURCE else 32
    assert len(project.session().digest(kind, "pipe.py")) == expected
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(project.root)
        try:
            listener.bind("s.py")
        finally:
            os.chdir(here)
        assert len(project.session().digest(kind, "s.py")) == expected


def test_fifo_that_replaces_a_file_does_not_block(project) -> None:
    """A regular file that turns into a fifo between stat and open is still not waited for."""
    path = project.root / "file"
    path.write_text("x")
    found = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    digest, opened = files.read_digest(path, found)
    assert len(digest) == 32
    assert stat.S_ISFIFO(opened.st_mode)


def test_link_loops_and_dangling_links_have_digests(project) -> None:
    """A loop is no endless walk; a dangling link is no absence, since the link is there."""
    (project.root / "a").symlink_to("b")
    (project.root / "b").symlink_to("a")
    (project.root / "lost").symlink_to("nowhere")
    present = project.session()
    for name in ("a", "lost"):
        assert present.digest(Kind.FILE, name) != ABSENT
        assert present.digest(Kind.STAT, name) != ABSENT
    before = present.digest(Kind.FILE, "lost")
    (project.root / "nowhere").write_text("found")
    assert project.session().digest(Kind.FILE, "lost") != before


def test_link_target_and_its_content_count(project) -> None:
    """A link pointing elsewhere is another file, even with the same content there."""
    for name in ("one", "two"):
        (project.root / name).write_text("same")
    link = project.root / "link"
    link.symlink_to("one")
    first = project.session().digest(Kind.FILE, "link")
    link.unlink()
    link.symlink_to("two")
    second = project.session().digest(Kind.FILE, "link")
    (project.root / "two").write_text("else")
    assert len({first, second, project.session().digest(Kind.FILE, "link")}) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_say_so(project) -> None:
    """A file without read permission is neither absent nor equal to its readable self."""
    path = project.root / "secret.py"
    path.write_text("x = 1\n")
    readable = {
        kind: project.session().digest(kind, "secret.py") for kind in (Kind.FILE, Kind.SOURCE)
    }
    path.chmod(0)
    for kind, before in readable.items():
        assert project.session().digest(kind, "secret.py") not in (before, ABSENT)


def test_read_error_says_so(project) -> None:
    """An error while reading, whoever runs the tests, gives a digest of its own."""
    path = project.root / "data"
    path.write_text("x")

    def refuse(_path: Path, _found: os.stat_result) -> str:
        raise PermissionError(13, "no")

    refused = files.content_digest(path, refuse)
    assert refused not in (ABSENT, project.session().digest(Kind.FILE, "data"))


def test_huge_sparse_file_costs_no_reading(project) -> None:
    """Ten gigabytes of nothing are digested without being read, and their size counts."""
    path = project.root / "huge"
    with open(path, "wb") as stream:
        stream.truncate(10 << 30)
    present = project.session()
    before = present.digest(Kind.FILE, "huge")
    with open(path, "r+b") as stream:
        stream.truncate(11 << 30)
    present.forget()
    assert present.digest(Kind.FILE, "huge") != before


def test_odd_names_survive_storage(project) -> None:
    """Names that are no UTF-8, with line breaks, backslashes or a leading ``<``, become text
    that can be encoded, and lead back to their file."""
    for raw in (b"\xff\xfe.txt", b"line\nbreak", b"back\\slash", b"<tmp>", b"\\x3cx", b"\\udcff"):
        path = project.root / os.fsdecode(raw)
        path.write_bytes(raw)
        present = project.session()
        name = present.name_of(path)
        assert name.encode("utf-8")
        assert present.path_of(name) == path
        assert present.digest(Kind.FILE, name) != ABSENT
        assert present.name_of(path) == name
    assert len(project.session().digest(Kind.LISTING, ".")) == 32


def test_nul_bytes_and_long_names_do_not_raise(project) -> None:
    """Names no file system takes have a digest too."""
    present = project.session()
    for name in ("a\0b", "x" * 5000):
        for kind in (Kind.FILE, Kind.STAT, Kind.LISTING, Kind.SOURCE, Kind.FILES):
            assert present.digest(kind, name)


def test_directory_that_vanishes_is_absent(project) -> None:
    """A directory removed meanwhile turns into ABSENT, not into an error."""
    path = project.root / "sub"
    path.mkdir()
    (path / "m.py").write_text("x = 1\n")
    present = project.session()
    assert present.digest(Kind.LISTING, "sub") != ABSENT
    (path / "m.py").unlink()
    path.rmdir()
    present.forget()
    assert present.digest(Kind.LISTING, "sub") == ABSENT
    assert present.digest(Kind.FILE, "sub/m.py") == ABSENT
    assert present.digest(Kind.SOURCE, "sub/m.py") == ABSENT


def test_working_directory_that_vanished_does_not_raise(project, monkeypatch, tmp_path) -> None:
    """Absolute paths are digested even from a working directory that is gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    (project.root / "data").write_text("x")
    present = project.session()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert present.digest(Kind.FILE, "data") != ABSENT
    assert present.digest(Kind.SOURCE, "data") not in ("", ABSENT)


def test_stat_counts_mode_and_size_but_not_times(project) -> None:
    """A file's mode and size are what an existence check may show; its times are not."""
    path = project.root / "data"
    path.write_text("one")
    before = project.session().digest(Kind.STAT, "data")
    path.write_text("two")
    os.utime(path, (5, 5))
    assert project.session().digest(Kind.STAT, "data") == before
    path.chmod(0o755)
    moded = project.session().digest(Kind.STAT, "data")
    path.write_text("longer")
    assert len({before, moded, project.session().digest(Kind.STAT, "data")}) == 3


def test_listing_counts_names_and_kinds_only(project) -> None:
    """A new entry changes a listing, and one that becomes a directory or a link, whatever else is
    there; the content of an entry does not."""
    path = project.root / "sub"
    path.mkdir()
    (path / "a").write_text("1")
    before = project.session().digest(Kind.LISTING, "sub")
    (path / "a").write_text("2")
    assert project.session().digest(Kind.LISTING, "sub") == before
    (path / "b").symlink_to("b")
    found = {before, project.session().digest(Kind.LISTING, "sub")}
    (path / "a").unlink()
    (path / "a").mkdir()
    found.add(project.session().digest(Kind.LISTING, "sub"))
    (path / "a").rmdir()
    (path / "a").symlink_to("../data")
    found.add(project.session().digest(Kind.LISTING, "sub"))
    assert len(found) == 4


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.csv", ["top.csv"]),
        ("data/**/*.csv", ["data/a.csv", "data/deep/er/b.csv"]),
        ("**/*.csv", ["data/a.csv", "data/deep/er/b.csv", "top.csv"]),
        ("data/[ab].csv", ["data/a.csv"]),
        ("./data/a.csv", ["data/a.csv"]),
        ("nothing/**", []),
        ("data/deep/**", ["data/deep/er", "data/deep/er/.hidden", "data/deep/er/b.csv"]),
    ],
)
def test_globs_match_what_users_expect(project, pattern, matches) -> None:
    """``**`` stands for any depth, none included; hidden files match."""
    for name in ("top.csv", "data/a.csv", "data/deep/er/b.csv", "data/deep/er/.hidden"):
        project.write({name: "1"})
    assert files.matches_of(project.root, pattern) == matches
    absolute = files.matches_of(project.root, str(project.root / pattern))
    assert absolute == [str(project.root / name) for name in matches]


def test_declared_files_count_by_name_and_content(project) -> None:
    """FILES changes with a content, with a new match and with a lost one, and with nothing else."""
    project.write({"data/a.csv": "1", "data/b.csv": "2", "data/c.txt": "3"})
    before = project.session().digest(Kind.FILES, "data/**/*.csv")
    project.write({"data/c.txt": "4"})
    assert project.session().digest(Kind.FILES, "data/**/*.csv") == before
    project.write({"data/a.csv": "5"})
    edited = project.session().digest(Kind.FILES, "data/**/*.csv")
    (project.root / "data/b.csv").rename(project.root / "data/d.csv")
    renamed = project.session().digest(Kind.FILES, "data/**/*.csv")
    assert len({before, edited, renamed}) == 3


def test_what_a_run_writes_itself_is_left_out_of_declared_files(project, tmp_path) -> None:
    """``FILES("**/*")`` in the project's root: byte code and what the cache keeps there differ
    from run to run."""
    project.write({"a.py": "A = 1", "data.txt": "1"})
    own = project.root / ".pytest_cache"

    def digest() -> str:
        return Present(project.root, ignore=[own]).digest(Kind.FILES, "**/*")

    before = digest()
    project.write({".pytest_cache/v/lastfailed": "{}", "__pycache__/a.cpython-312.pyc": "x"})
    assert digest() == before
    project.write({"data.txt": "2"})
    assert digest() != before


def test_glob_ends_where_links_lead_back(project) -> None:
    """Several links back to a directory above do not multiply without end."""
    project.write({"data/a.csv": "1"})
    for name in ("x", "y", "z"):
        (project.root / "data" / name).symlink_to("..")
    assert "data/a.csv" in files.matches_of(project.root, "data/**/*.csv")


def test_database_counts_with_its_log(project) -> None:
    """A row that is committed to the write-ahead log only has changed the database."""
    path = project.root / "rows.db"
    connection = sqlite3.connect(path)
    try:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma wal_autocheckpoint=0")
        connection.execute("create table t (x)")
        connection.commit()
        connection.execute("pragma wal_checkpoint(truncate)")
        main = path.read_bytes()
        before = project.session().digest(Kind.FILE, "rows.db")
        connection.execute("insert into t values (1)")
        connection.commit()
        assert path.read_bytes() == main
        assert project.session().digest(Kind.FILE, "rows.db") != before
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fraction", "age_ms", "racy"),
    [(123, 20, True), (123, 60, False), (0, 60, True), (0, 1_900, True), (0, 2_100, False)],
)
def test_racy_window_follows_the_resolution(tmp_path, fraction, age_ms, racy) -> None:
    """Fine times are trusted after 50 ms, whole seconds after two."""
    moment = 1_700_000_000 * 10**9 + fraction

    class Found:
        st_mtime_ns = st_ctime_ns = moment

    assert is_racy(Found(), moment + age_ms * 10**6) is racy  # type: ignore[arg-type]
    assert is_racy(Found(), moment - 10**9)  # type: ignore[arg-type]


def test_kept_digests_spare_reading_and_never_mislead(project, later) -> None:
    """A second session opens no unchanged file; a changed one, even of the same size and mtime,
    is read again."""
    path = project.root / "data"
    path.write_text("one")
    first = project.session(shelf=True, clock=later)
    before = first.digest(Kind.FILE, "data")
    assert first.contents.reads == 1
    first.save()
    second = project.session(shelf=True, clock=later)
    assert second.digest(Kind.FILE, "data") == before
    assert second.contents.reads == 0
    found = os.stat(path)
    time.sleep(0.02)  # the timer tick that file times are taken from
    path.write_text("two")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    third = project.session(shelf=True, clock=later)
    assert third.digest(Kind.FILE, "data") != before
    assert third.contents.reads == 1


def test_young_files_are_not_kept(project) -> None:
    """A file that changed at the very moment of its digest is not kept."""
    path = project.root / "data"
    path.write_text("one")
    session = project.session(shelf=True, clock=lambda: os.stat(path).st_ctime_ns + 1)
    session.digest(Kind.FILE, "data")
    session.save()
    assert project.shelf.sections == {}


def test_shelf_is_read_once_and_written_once(project, later) -> None:
    """However many files there are, each section costs one read and one write."""
    for number in range(20):
        project.write({f"m{number}.py": f"X = {number}\n"})
    session = project.session(shelf=True, clock=later)
    for number in range(20):
        session.digest(Kind.FILE, f"m{number}.py")
    session.save()
    session.save()
    assert len(project.shelf.reads) == len(project.shelf.writes) == 1


def test_damaged_shelf_costs_time_only(project, later) -> None:
    """Garbage on the shelf is as good as nothing on it."""
    project.write({"m.py": "def f():\n    return 1\n"})
    session = project.session(shelf=True, clock=later)
    expected = session.digest(Kind.FILE, "m.py")
    session.save()
    ((section, items),) = project.shelf.sections.items()
    ((name, value),) = items.items()
    for damaged in (b"", b"\xff\x00", value[: len(value) // 2], value + b"]", value[:33] + b"[]"):
        project.shelf.sections[section] = {name: damaged}
        again = project.session(shelf=True, clock=later)
        assert again.digest(Kind.FILE, "m.py") == expected
