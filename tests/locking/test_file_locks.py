from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contenders import Contender, eventually, holder

import pytest_taskcache
from pytest_taskcache.errors import LockError
from pytest_taskcache.locking import liveness
from pytest_taskcache.locking.file import FileLockManager
from pytest_taskcache.ports import Holder, Lease

UNREADABLE = {
    "empty": b"",
    "cut off": b'{"format": 1, "alive": "x.lock", "tok',
    "not JSON": b"\xff\x00garbage",
    "not an object": b"[1, 2]",
    "no holder": b'{"format": 1, "alive": "x.lock", "token": 1}',
    "another format": b'{"format": 99, "alive": "x.lock", "token": 1, "holder": {}}',
    "deeply nested": b"[" * 60_000,
    "large": b"x" * 3_000_000,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def manager(directory: Path) -> Iterator[FileLockManager]:
    made = FileLockManager(directory)
    yield made
    made.close()


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*"))


def key_file(directory: Path) -> Path:
    (path,) = (directory / "keys").iterdir()
    return path


def test_nothing_is_left_behind(directory: Path) -> None:
    """While a key is held there is one file for it and one for the process; after close, none."""
    manager = FileLockManager(directory)
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    assert len(files(directory)) == 2
    manager.release(lease)
    assert len(files(directory)) == 1
    manager.acquire("k", holder())
    manager.close()
    assert files(directory) == []


def test_what_a_crash_left_behind_is_removed(directory: Path) -> None:
    """The next manager removes the dead process's files, also for keys nobody asks for again."""
    crashed = Contender(str(directory), "hold", *"abcdef")
    crashed.hear()
    crashed.close()
    assert len(files(directory)) == 7
    (directory / "keys" / f"{files(directory)[0].partition('/')[2]}.1").write_bytes(b"half")
    manager = FileLockManager(directory)
    lease = manager.acquire("z", holder())
    assert isinstance(lease, Lease)
    assert len([name for name in files(directory) if not name.startswith("takeover")]) == 2
    manager.close()


def test_a_key_can_be_had_again_after_close(manager: FileLockManager) -> None:
    """A closed manager that is used again works as a new one."""
    manager.acquire("k", holder())
    manager.close()
    assert isinstance(manager.acquire("k", holder()), Lease)


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_lock_counts_until_it_is_old(
    manager: FileLockManager, directory: Path, content: bytes
) -> None:
    """A damaged lock file holds for a while, since somebody may be writing it; then it does not."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    key_file(directory).write_bytes(content)
    assert not manager.confirm(lease)
    other = FileLockManager(directory)
    told = other.acquire("k", holder("other"))
    assert isinstance(told, Holder)
    assert "cannot be read" in told.label
    os.utime(key_file(directory), (1.0, 1.0))
    assert isinstance(other.acquire("k", holder("other")), Lease)
    other.close()


def test_a_damaged_lock_from_the_future_is_taken_over_too(
    manager: FileLockManager, directory: Path
) -> None:
    """A time stamp that lies ahead (a clock that was wrong) does not hold a lock forever."""
    manager.acquire("k", holder())
    key_file(directory).write_bytes(b"")
    os.utime(key_file(directory), (4e9, 4e9))
    other = FileLockManager(directory)
    assert isinstance(other.acquire("k", holder("other")), Lease)
    other.close()


@pytest.mark.parametrize("name", ["../keys/x.lock", "/etc/hostname", "", "no-such.lock", "a\0b"])
def test_a_liveness_name_leads_nowhere_else(
    manager: FileLockManager, directory: Path, name: str
) -> None:
    """A lock file cannot make us open or lock files elsewhere; its process counts as dead."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    claim = json.loads(key_file(directory).read_bytes()) | {"alive": name, "token": 2 * lease.token}
    key_file(directory).write_text(json.dumps(claim))
    other = FileLockManager(directory)
    taken = other.acquire("k", holder("other"))
    assert isinstance(taken, Lease)
    assert taken.token > 2 * lease.token
    other.close()


@pytest.fixture
def orphan(manager: FileLockManager, directory: Path) -> Lease:
    """A key whose holder died: its file is there, its process is not."""
    lease = manager.acquire("k", holder("dead"))
    assert isinstance(lease, Lease)
    for path in (directory / "alive").iterdir():
        path.unlink()
    return lease


def test_nobody_takes_over_beside_another(orphan: Lease, directory: Path) -> None:
    """While one is taking over, others leave the dead holder's lock to it."""
    other = FileLockManager(directory)
    with liveness.exclusive(directory / "takeover.lock") as alone:
        assert alone
        assert other.acquire("k", holder("other")) == orphan.holder
    assert isinstance(other.acquire("k", holder("other")), Lease)
    other.close()


def test_who_comes_late_to_a_takeover_gets_nothing(
    orphan: Lease, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rival takes over after we saw that the holder is dead and before we do: the rival keeps
    its lock, and we are told about it."""
    slow, rival = FileLockManager(directory), FileLockManager(directory)
    won: list[Lease | Holder] = []
    real = liveness.exclusive

    def after_the_rival(path: Path) -> contextlib.AbstractContextManager[bool]:
        monkeypatch.setattr(liveness, "exclusive", real)
        won.append(rival.acquire("k", holder("rival")))
        return real(path)

    monkeypatch.setattr(liveness, "exclusive", after_the_rival)
    assert slow.acquire("k", holder("slow")) == holder("rival")
    (lease,) = won
    assert isinstance(lease, Lease)
    assert lease.token > orphan.token
    assert rival.confirm(lease)
    slow.close()
    rival.close()


def test_sweeping_spares_what_changed_hands_meanwhile(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a new process clears up after a dead one, another releases its key, ends, and a third
    takes that key: the third one's lock is not swept away with the second one's leftovers."""
    dead, second, third, new = (FileLockManager(directory) for _ in range(4))
    dead.acquire("of the dead", holder())
    second.acquire("k", holder("second"))
    third.acquire("z", holder("third"))
    del dead
    real = liveness.sweep
    leases: list[Lease | Holder] = []

    def interrupted(alive: Path, own: str) -> Iterator[str]:
        names = real(alive, own)
        yield next(names)
        second.close()
        leases.append(third.acquire("k", holder("third")))
        yield from names

    monkeypatch.setattr(liveness, "sweep", interrupted)
    new.acquire("n", holder("new"))
    (lease,) = leases
    assert isinstance(lease, Lease)
    assert third.confirm(lease)
    assert len(list((directory / "keys").iterdir())) == 3  # k, n and z
    third.close()
    new.close()


def test_a_lost_lease_frees_nothing(manager: FileLockManager, directory: Path) -> None:
    """Whoever lost the lock (here its file was removed) does not release the next holder's."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    key_file(directory).unlink()
    other = FileLockManager(directory)
    new = other.acquire("k", holder("other"))
    assert isinstance(new, Lease)
    assert not manager.confirm(lease)
    manager.release(lease)
    manager.close()
    assert other.confirm(new)
    other.close()


def test_who_cannot_be_seen_to_live_does_not_confirm(
    manager: FileLockManager, directory: Path
) -> None:
    """If the liveness file was removed (a cleaner of temporary files), anybody may take over, so
    the lease is not confirmed, and the next acquisition says what happened."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    for path in (directory / "alive").iterdir():
        path.unlink()
    assert not manager.confirm(lease)
    other = FileLockManager(directory)
    assert isinstance(other.acquire("k", holder("other")), Lease)
    with pytest.raises(LockError, match="vanished"):
        manager.acquire("k2", holder())
    assert isinstance(manager.acquire("k2", holder()), Lease)
    other.close()


def test_a_vanished_directory_is_a_fault_once(manager: FileLockManager, directory: Path) -> None:
    """Clearing the cache under a running session costs one counted fault, and no crash."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    shutil.rmtree(directory)
    assert not manager.confirm(lease)
    manager.release(lease)
    with pytest.raises(LockError, match="vanished"):
        manager.acquire("k", holder())
    assert isinstance(manager.acquire("k", holder()), Lease)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A path that is no directory gives a LockError that says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match="Not a directory"):
        FileLockManager(tmp_path / "file" / "locks").acquire("k", holder())


def test_something_else_in_the_place_of_a_lock(manager: FileLockManager, directory: Path) -> None:
    """A directory, a link or a pipe where the lock file belongs is a fault, followed by nobody."""
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    path = key_file(directory)
    manager.release(lease)
    path.mkdir()
    with pytest.raises(LockError, match="directory"):
        manager.acquire("k", holder())
    path.rmdir()
    path.symlink_to("/etc/hostname")
    with pytest.raises(LockError):
        manager.acquire("k", holder())
    path.unlink()
    os.mkfifo(path)
    assert isinstance(manager.acquire("k", holder()), Holder)


def test_without_hard_links(
    manager: FileLockManager, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems without hard links the locks exclude just the same."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    other = FileLockManager(directory)
    assert other.acquire("k", holder("other")) == holder()
    assert manager.confirm(lease)
    manager.release(lease)
    assert isinstance(other.acquire("k", holder("other")), Lease)
    other.close()
    assert len(files(directory)) == 1


def test_a_relative_directory_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that changes the working directory does not move the locks."""
    monkeypatch.chdir(tmp_path)
    manager = FileLockManager(Path("locks"))
    lease = manager.acquire("k", holder())
    assert isinstance(lease, Lease)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert manager.confirm(lease)
    manager.close()
    assert files(tmp_path / "locks") == []


LIMITED = """
import resource, sys
from pathlib import Path
from pytest_taskcache.errors import LockError
from pytest_taskcache.locking import liveness
from pytest_taskcache.locking.file import FileLockManager
from pytest_taskcache.ports import Holder, Lease

holder = Holder("run", 0.0, "1@here", "1")
manager = FileLockManager(Path(sys.argv[1]))
"""


def limited(directory: Path, program: str) -> str:
    source = Path(pytest_taskcache.__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED + program, str(directory)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_disk_that_takes_nothing(directory: Path) -> None:
    """Where nothing can be written, acquire raises LockError, leaves no half-written lock, and the
    lock can be had when there is room again."""
    said = limited(
        directory,
        """
sys.dont_write_bytecode = True
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
try:
    manager.acquire("k", holder)
except LockError as error:
    print(error.reason)
print(len(list((Path(sys.argv[1]) / "keys").iterdir())))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(isinstance(manager.acquire("k", holder), Lease))
""",
    )
    assert said == "cannot acquire a lock: File too large\n0\nTrue\n"


def test_thousands_of_keys_need_few_descriptors(directory: Path) -> None:
    """A test that holds 1,500 keys does not run out of file descriptors."""
    said = limited(
        directory,
        """
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
leases = [manager.acquire(str(number), holder) for number in range(1500)]
print(all(manager.confirm(lease) for lease in leases))
manager.close()
""",
    )
    assert said == "True\n"


def test_no_descriptor_left_is_a_fault(directory: Path) -> None:
    """A process that ran out of file descriptors gets LockError, and works again afterwards."""
    said = limited(
        directory,
        """
lease = manager.acquire("k", holder)
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
try:
    while True:
        taken.append(open("/dev/null"))
except OSError:
    pass
for deed in (lambda: manager.acquire("j", holder), lambda: manager.confirm(lease)):
    try:
        deed()
    except LockError as error:
        print(error.reason)
for file in taken:
    file.close()
print(manager.confirm(lease), isinstance(manager.acquire("j", holder), Lease))
""",
    )
    assert said == (
        "cannot acquire a lock: Too many open files\n"
        "cannot confirm a lock: Too many open files\nTrue True\n"
    )


def test_a_manager_that_was_forgotten_frees_its_locks(directory: Path) -> None:
    """An object that was garbage-collected without close holds nothing any more."""
    forgotten = FileLockManager(directory)
    forgotten.acquire("k", holder())
    del forgotten
    manager = FileLockManager(directory)
    assert eventually(manager, "k")
    manager.close()


def test_reading_the_lock_directory_frees_nothing(
    manager: FileLockManager, directory: Path, tmp_path: Path
) -> None:
    """A test that copies or reads the cache's directory in the same process breaks no lock."""
    lease = manager.acquire("k", holder())
    shutil.copytree(directory, tmp_path / "copy")
    for path in directory.rglob("*.*"):
        with contextlib.suppress(IsADirectoryError):
            path.read_bytes()
    rival = Contender(str(directory), "hold", "k")
    assert rival.hear()["tokens"] == []
    rival.close()
    assert isinstance(lease, Lease)
    assert manager.confirm(lease)
