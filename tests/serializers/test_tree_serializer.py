"""Directories and files as values: every oddity that a file system allows."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from xxhash import xxh3_128

from pytest_taskcache.errors import SerializationError, StorageError
from pytest_taskcache.ports import Payload, Restore
from pytest_taskcache.serializers import trees
from pytest_taskcache.serializers.trees import TreeSerializer, tree


class Cellar:
    """Blobs in a folder, as a local storage keeps them: read-only, hard links on request."""

    def __init__(self, folder: Path, links: bool = True) -> None:
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True)
        self.scratches = folder / "scratches"
        self.scratches.mkdir()
        self.links = links

    def keep(self, payload: Payload) -> memoryview:
        for blob in payload.blobs:
            shutil.copyfile(blob.path, self.blobs / blob.digest)
            (self.blobs / blob.digest).chmod(0o444)
        return memoryview(b"".join(payload.chunks))

    def scratch(self) -> Path:
        place = self.scratches / str(len(os.listdir(self.scratches)))
        place.mkdir()
        return place

    def copy(self, digest: str, destination: Path, readonly: bool) -> None:
        if not (self.blobs / digest).exists():
            raise StorageError("the cellar", "copy a file", f"{digest} is lost")
        if readonly and self.links:
            os.link(self.blobs / digest, destination)
        else:
            shutil.copyfile(self.blobs / digest, destination)

    @property
    def restore(self) -> Restore:
        return Restore(self.scratch, self.copy)

    def contents(self) -> dict[str, tuple[bytes, int, int]]:
        return {
            blob.name: (blob.read_bytes(), blob.stat().st_mode, blob.stat().st_mtime_ns)
            for blob in self.blobs.iterdir()
        }


@pytest.fixture
def cellar(tmp_path: Path) -> Cellar:
    return Cellar(tmp_path / "cellar")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.mkdir()
    return path


def there_and_back(value: Path, cellar: Cellar, readonly: bool = False) -> Path:
    data = cellar.keep(TreeSerializer().dump(value))
    back = TreeSerializer(readonly).load(data, cellar.restore)
    assert back.name == value.name
    assert back != value
    return back


def refusal(value: object) -> str:
    with pytest.raises(SerializationError) as caught:
        TreeSerializer().dump(value)
    return caught.value.reason


# --------------------------------------------------------------------------------- what is kept


def test_files_directories_and_empty_ones_come_back(made: Path, cellar: Cellar) -> None:
    """Contents at every depth, and directories that hold nothing."""
    deep = made.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"\0\xff")
    (made / "empty").mkdir()
    (made / "nothing").touch()
    back = there_and_back(made, cellar)
    assert back.joinpath(*["d"] * 40, "file").read_bytes() == b"\0\xff"
    assert list((back / "empty").iterdir()) == []
    assert (back / "nothing").read_bytes() == b""
    assert sorted(os.listdir(back)) == ["d", "empty", "nothing"]


def test_a_single_file_and_an_empty_directory_are_values_too(made: Path, cellar: Cellar) -> None:
    """The path itself may be a file, or hold nothing."""
    (made / "single.txt").write_text("content")
    back = there_and_back(made / "single.txt", cellar)
    assert back.read_text() == "content"
    (made / "single.txt").unlink()
    assert list(there_and_back(made, cellar).iterdir()) == []


def test_modes_and_times_come_back_to_the_nanosecond(made: Path, cellar: Cellar) -> None:
    """Tools that compare times of modification see nothing to do; scripts stay executable."""
    (made / "sub").mkdir()
    (made / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (made / "secret").write_text("s")
    (made / "link").symlink_to("secret")
    times = {"sub/run.sh": 1_234_567_890_123_456_789, "secret": 1, "sub": -5_000_000_001, ".": 7}
    modes = {"sub/run.sh": 0o755, "secret": 0o600, "sub": 0o550, ".": 0o750}
    for name, mtime in times.items():
        os.utime(made / name, ns=(mtime, mtime))
        os.chmod(made / name, modes[name])
    os.utime(made / "link", ns=(11, 11), follow_symlinks=False)
    back = there_and_back(made, cellar)
    for name, mtime in times.items():
        assert (back / name).stat().st_mtime_ns == mtime
        assert stat.S_IMODE((back / name).stat().st_mode) == modes[name]
    assert (back / "link").lstat().st_mtime_ns == 11


def test_set_user_id_is_not_carried_along(made: Path, cellar: Cellar) -> None:
    """Permission bits only: a cache hands out no privileges."""
    (made / "tool").touch()
    os.chmod(made / "tool", 0o4755)
    back = there_and_back(made, cellar)
    assert stat.S_IMODE((back / "tool").stat().st_mode) == 0o755


def test_relative_links_inside_the_tree_stay_links(made: Path, cellar: Cellar) -> None:
    """To files, directories, each other, the tree itself, and to nothing."""
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "file").write_text("content")
    targets = {
        "to-file": "a/file",
        "to-dir": "a/b",
        "a/b/up": "../file",
        "a/b/top": "../..",
        "chain": "to-dir/up",
        "dangling": "a/missing",
        "loop": "loop",
        "dotted": "./a/./file",
    }
    for name, target in targets.items():
        (made / name).symlink_to(target)
    back = there_and_back(made, cellar)
    assert {name: os.readlink(back / name) for name in targets} == targets
    assert (back / "chain").read_text() == "content"
    assert (back / "a/b/top").resolve() == back.resolve()


def test_equal_contents_and_hard_links_are_stored_once(made: Path, cellar: Cellar) -> None:
    """One blob for each distinct content, and none of the copies is the other's file."""
    for name in "abc":
        (made / name).write_text("same")
    os.link(made / "a", made / "d")
    os.link(made / "a", made / "e")
    payload = TreeSerializer().dump(made)
    assert len(payload.blobs) == 1
    back = there_and_back(made, cellar)
    (back / "a").write_text("changed")
    assert [(back / name).read_text() for name in "bcde"] == ["same"] * 4


def test_odd_names_come_back(made: Path, cellar: Cellar) -> None:
    """Names are bytes: undecodable ones, newlines, backslashes, spaces, leading dashes."""
    names = [b"\xff\xfe.bin", b"new\nline", b"back\\slash", b" ", b"-rf", b"...", "ü".encode()]
    names += [b"con", b"a:b", b"x" * 255, b'"quoted"']
    directory = os.fsencode(made)
    for name in names:
        try:
            os.mkdir(os.path.join(directory, name))
        except OSError as error:
            if error.errno not in (errno.EILSEQ, errno.EINVAL):
                raise
            pytest.skip("this file system restricts names")
        with open(os.path.join(directory, name, name), "wb") as file:
            file.write(name)
    back = os.fsencode(there_and_back(made, cellar))
    assert sorted(os.listdir(back)) == sorted(names)
    for name in names:
        with open(os.path.join(back, name, name), "rb") as file:
            assert file.read() == name


def test_a_large_sparse_file_is_read_in_steps(made: Path, cellar: Cellar) -> None:
    """A file larger than any buffer comes back whole."""
    with (made / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    back = there_and_back(made, cellar)
    assert (back / "sparse").stat().st_size == (5 << 20) + 3
    assert (back / "sparse").read_bytes() == (made / "sparse").read_bytes()


def test_the_manifest_of_a_tree_is_always_the_same(made: Path) -> None:
    """Whatever order the file system lists names in."""
    for name in ("b", "a", "a.b", "a b"):
        (made / name).mkdir()
        (made / name / "f").write_text(name)
    first = TreeSerializer().dump(made)
    assert first == TreeSerializer().dump(made)
    paths = [entry["path"] for entry in json.loads(first.chunks[0])["entries"]]
    assert paths == ["", "a", "a/f", "a b", "a b/f", "a.b", "a.b/f", "b", "b/f"]


def test_a_path_of_any_spelling_is_its_own_name(
    made: Path, cellar: Cellar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths, `.`, and a link to the directory."""
    (made / "sub").mkdir()
    (made / "sub" / "f").write_text("f")
    monkeypatch.chdir(made)
    (made / "alias").symlink_to("sub")
    for value, name in (("sub", "sub"), (".", "made"), ("sub/../sub", "sub"), ("alias", "alias")):
        data = cellar.keep(TreeSerializer().dump(Path(value)))
        back = TreeSerializer().load(data, cellar.restore)
        assert back.name == name
        assert back.is_dir()
        assert not back.is_symlink()


def test_each_load_is_a_tree_of_its_own(made: Path, cellar: Cellar) -> None:
    """Who changes a restored tree changes neither the stored one nor anyone else's."""
    (made / "f").write_text("content")
    data = cellar.keep(TreeSerializer().dump(made))
    before = cellar.contents()
    first = TreeSerializer().load(data, cellar.restore)
    second = TreeSerializer().load(data, cellar.restore)
    with (first / "f").open("a") as file:
        file.write(", changed")
    (first / "new").touch()
    assert (second / "f").read_text() == "content"
    assert cellar.contents() == before
    assert os.listdir(TreeSerializer().load(data, cellar.restore)) == ["f"]


# ----------------------------------------------------------------------------------- read-only


@pytest.mark.parametrize("links", [True, False])
def test_a_read_only_tree_has_no_write_bits(tmp_path: Path, made: Path, links: bool) -> None:
    """Files and directories alike, whether they are hard links or copies; the blobs keep
    content, mode and time."""
    cellar = Cellar(tmp_path / "other cellar", links)
    (made / "sub").mkdir()
    for name, mode in (("plain", 0o644), ("sub/tool", 0o755), ("secret", 0o600)):
        (made / name).write_text(name)
        os.chmod(made / name, mode)
        os.utime(made / name, ns=(5, 5))
    data = cellar.keep(TreeSerializer().dump(made))
    before = cellar.contents()
    back = tree(readonly=True).load(data, cellar.restore)
    wanted = {".": 0o555, "plain": 0o444, "sub": 0o555, "sub/tool": 0o555, "secret": 0o400}
    for name, mode in wanted.items():
        assert stat.S_IMODE((back / name).stat().st_mode) == mode
    assert (back / "plain").stat().st_nlink == (2 if links else 1)
    assert (back / "sub/tool").stat().st_mtime_ns == 5
    assert cellar.contents() == before


def test_a_link_where_a_copy_was_asked_for_is_refused(made: Path, cellar: Cellar) -> None:
    """A storage that hands out its own file for writing would spoil it."""
    (made / "f").write_text("content")
    os.chmod(made / "f", 0o444)
    data = cellar.keep(TreeSerializer().dump(made))
    always_links = Restore(cellar.scratch, lambda d, to, _: os.link(cellar.blobs / d, to))
    with pytest.raises(SerializationError, match="hard link"):
        TreeSerializer().load(data, always_links)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("target", "how"),
    [
        ("/etc/passwd", "absolute"),
        ("..", "out of the tree"),
        ("../made/inside", "out of the tree"),
        ("sub/../../other", "out of the tree"),
        ("sub/down/../../../x", "out of the tree"),
        ("missing/../../x", "out of the tree"),
    ],
)
def test_links_that_lead_out_are_refused_by_name(made: Path, target: str, how: str) -> None:
    """Restored elsewhere they would lead to something else."""
    (made / "sub" / "down").mkdir(parents=True)
    (made / "escape").symlink_to(target)
    reason = refusal(made)
    assert "'escape'" in reason
    assert how in reason
    assert target in reason


def test_a_link_that_leads_out_by_way_of_another_is_refused(made: Path) -> None:
    """`..` after a linked directory goes up from where the link leads."""
    (made / "a" / "b" / "c").mkdir(parents=True)
    (made / "a" / "b" / "c" / "short").symlink_to("../../..")
    (made / "a" / "b" / "c" / "sly").symlink_to("short/../x")
    assert "'a/b/c/sly'" in refusal(made)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a named pipe"),
        (lambda path: bind(path), "a socket"),
        (lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)), "a device"),
    ],
)
def test_special_files_are_refused_by_name(
    made: Path, make: Callable[[str], None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without opening them: a pipe that nobody writes to would never end."""
    monkeypatch.chdir(made)
    (made / "sub").mkdir()
    try:
        make("sub/special")
    except PermissionError:
        pytest.skip("only root makes devices")
    assert f"'sub/special' is {what}" in refusal(made)


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


@pytest.mark.parametrize("value", ["a string", 1, None, [Path()], Path("/"), Path("missing")])
def test_values_that_are_no_tree_are_refused(value: object) -> None:
    """Only an existing path with a name is one."""
    assert refusal(value)


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done while a file is open: by the digest, which certainly runs then."""

    def meddle(deed: Callable[[], object]) -> None:
        class Meddling:
            def __init__(self) -> None:
                self.digest = xxh3_128()

            def update(self, data: memoryview) -> None:
                self.digest.update(data)
                deed()

            def hexdigest(self) -> str:
                return self.digest.hexdigest()

        monkeypatch.setattr(trees, "xxh3_128", Meddling)

    return meddle


def test_a_file_that_changes_while_it_is_read_is_refused(
    made: Path, meddle: Callable[[Callable[[], object]], None]
) -> None:
    """What is stored is what was there at one moment, or nothing is."""
    log = made / "log"
    log.write_bytes(b"x" * 1000)
    meddle(lambda: log.open("ab").close())
    TreeSerializer().dump(made)  # opened for writing, but not written to

    def append() -> None:
        with log.open("ab") as file:
            file.write(b"more")

    meddle(append)
    assert "'log' changed while it was read" in refusal(made)
    meddle(lambda: os.utime(log, ns=(1, os.stat(log).st_mtime_ns + 1)))
    assert "'log' changed while it was read" in refusal(made)


def test_a_directory_that_changes_while_its_files_are_read_is_refused(
    made: Path, meddle: Callable[[Callable[[], object]], None]
) -> None:
    """A name that appeared after the listing would be missing."""
    (made / "sub").mkdir()
    (made / "sub" / "file").write_text("content")
    os.utime(made / "sub", ns=(1, 1))
    meddle(lambda: (made / "sub" / "late").touch())
    assert "'sub' changed while it was read" in refusal(made)


def test_a_file_that_vanishes_while_it_is_stored_is_refused(
    made: Path, meddle: Callable[[Callable[[], object]], None]
) -> None:
    """By the one error, naming the file."""
    (made / "a").write_text("first")
    (made / "b").write_text("second")
    meddle(lambda: (made / "b").unlink(missing_ok=True))
    assert "/made/b" in refusal(made)


# -------------------------------------------------------------------------------------- damage


def test_a_lost_file_is_an_error_of_this_serializer(made: Path, cellar: Cellar) -> None:
    """The engine computes anew, as for any value that is lost."""
    (made / "f").write_text("content")
    data = cellar.keep(TreeSerializer().dump(made))
    for blob in cellar.blobs.iterdir():
        blob.unlink()
    with pytest.raises(SerializationError, match="lost"):
        TreeSerializer().load(data, cellar.restore)


def test_a_file_of_another_size_is_refused(made: Path, cellar: Cellar) -> None:
    """A torn copy is no value."""
    (made / "f").write_text("content")
    data = cellar.keep(TreeSerializer().dump(made))
    for blob in cellar.blobs.iterdir():
        blob.chmod(0o600)
        blob.write_text("con")
    with pytest.raises(SerializationError, match="3 bytes, not 7"):
        TreeSerializer().load(data, cellar.restore)


def test_two_names_that_are_one_here_are_refused(made: Path, cellar: Cellar) -> None:
    """As on a file system that ignores case: the second is never written over the first."""
    (made / "a").write_text("lower")
    (made / "b").write_text("other")
    data = cellar.keep(TreeSerializer().dump(made))

    def copy_to_both(digest: str, destination: Path, readonly: bool) -> None:
        cellar.copy(digest, destination, readonly)
        (destination.parent / "b").write_text("the same file by another name")

    with pytest.raises(SerializationError, match="the same on this file system"):
        TreeSerializer().load(data, Restore(cellar.scratch, copy_to_both))


# -------------------------------------------------------------------------------- its own place


@pytest.mark.parametrize("before", [0, (1 << 20) - 5, 3 << 20])
def test_a_tree_that_holds_its_own_absolute_path_is_refused(tmp_path: Path, before: int) -> None:
    """Its copy lies elsewhere; wherever in a file the path stands."""
    (tmp_path / "tree" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "bin" / "run").write_text("#" * before + f"{tmp_path}/tree/bin/python")
    with pytest.raises(SerializationError, match="'bin/run' holds the absolute path of the tree"):
        TreeSerializer().dump(tmp_path / "tree")


def test_a_tree_reached_through_a_link_is_known_by_both_names(tmp_path: Path) -> None:
    """The name it was returned by, and the one that its files were written with."""
    (tmp_path / "real").mkdir()
    (tmp_path / "name").symlink_to("real")
    for written in ("real", "name"):
        (tmp_path / "real" / "file").write_text(str(tmp_path / written / "data"))
        with pytest.raises(SerializationError, match="holds the absolute path of the tree"):
            TreeSerializer().dump(tmp_path / "name")


def test_other_absolute_paths_and_byte_code_are_left_alone(tmp_path: Path) -> None:
    """A path that is as long-lived as the machine, and byte code, which names its source."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("#!/usr/bin/env python")
    (tmp_path / "tree" / "mod.cpython-312.pyc").write_text(f"{tmp_path}/tree/mod.py")
    assert len(TreeSerializer().dump(tmp_path / "tree").blobs) == 2


def test_a_file_alone_may_not_name_itself_either(tmp_path: Path) -> None:
    """A file is a tree of one."""
    (tmp_path / "file").write_text(f"I am {tmp_path}/file")
    with pytest.raises(SerializationError, match="the path holds the absolute path"):
        TreeSerializer().dump(tmp_path / "file")
