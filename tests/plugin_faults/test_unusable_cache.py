"""A cache that cannot be used: the tests run without it, one line says why and what to do."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hurt_project import ALL_COUNTED, HurtProject, Ran, check_recovered, check_told, check_unharmed


def _contents(project: HurtProject) -> dict[Path, bytes]:
    paths = [project.cache, *project.cache.rglob("*")]
    return {path: path.read_bytes() for path in paths if path.is_file()}


WITHOUT_PRIVILEGES = """
    import ctypes, os, sys
    # Root obeys permissions once it has lost CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2):
    # PR_CAPBSET_DROP (24) takes effect with the next program.
    if os.geteuid() == 0 and "OBEYS" not in os.environ:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):
            if libc.prctl(24, capability, 0, 0, 0):
                raise SystemExit("cannot drop privileges")
        os.environ["OBEYS"] = "1"
        os.execv(sys.executable, sys.orig_argv)
    os.environ.pop("OBEYS", None)
"""


def run_without_privileges(project: HurtProject, *args: str) -> Ran:
    """A run to which permissions apply, even where root runs the tests."""
    ran = project.run(*args, prelude=WITHOUT_PRIVILEGES)
    if "cannot drop privileges" in ran.err:
        pytest.skip("root cannot give up its privileges here")
    return ran


def _newer_schema(project: HurtProject) -> Callable[[], None]:
    def set_version(change: int) -> None:
        connection = sqlite3.connect(project.index)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + change}")
        connection.close()

    set_version(+100)
    return lambda: set_version(-100)


def _writable_by_all(project: HurtProject) -> Callable[[], None]:
    project.cache.chmod(0o777)
    return lambda: project.cache.chmod(0o700)


def _index_writable_by_all(project: HurtProject) -> Callable[[], None]:
    project.index.chmod(0o666)
    return lambda: project.index.chmod(0o600)


def _of_another_user(project: HurtProject) -> Callable[[], None]:
    if os.geteuid() != 0:
        pytest.skip("giving directories away needs root")
    os.chown(project.cache, 12345, 12345)
    return lambda: os.chown(project.cache, 0, 0)


def _link(project: HurtProject) -> Callable[[], None]:
    elsewhere = project.index.with_name("elsewhere")
    project.index.rename(elsewhere)
    project.index.symlink_to(elsewhere)
    return lambda: (project.index.unlink(), elsewhere.rename(project.index))  # type: ignore[return-value]


def _file_in_its_place(project: HurtProject) -> Callable[[], None]:
    moved = project.cache.with_name("moved")
    project.cache.rename(moved)
    project.cache.write_text("not a directory")
    return lambda: (project.cache.unlink(), moved.rename(project.cache))  # type: ignore[return-value]


def _directory_in_place_of_the_index(project: HurtProject) -> Callable[[], None]:
    moved = project.index.with_name("moved")
    project.index.rename(moved)
    project.index.mkdir()
    return lambda: (project.index.rmdir(), moved.rename(project.index))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (_newer_schema, "upgrade pytest-taskcache or delete the directory"),
        (_writable_by_all, "run `chmod -R go-w` on it"),
        (_index_writable_by_all, "run `chmod -R go-w` on it"),
        (_of_another_user, "use a directory of your own"),
        (_link, "delete the link"),
        (_file_in_its_place, "choose another path"),
        (_directory_in_place_of_the_index, "index.sqlite3 is not a file; delete it"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_the_run_goes_on_without(
    hurt: HurtProject, plain: Ran, spoil: Callable[[HurtProject], Callable[[], None]], remedy: str
) -> None:
    """Nothing there is believed, changed or added to; the remedy is told; and once the user has
    followed it, everything that was stored is there."""
    hurt.run()
    restore = spoil(hurt)
    before = _contents(hurt)
    ran = hurt.run()
    check_unharmed(ran, plain)
    assert len(ran.faults) == sum(ran.faults.values()) == 1, ran.shown
    (reason,) = ran.faults
    assert reason.startswith("cache not usable: "), ran.shown
    assert remedy in ran.out, ran.shown
    assert ran.counts == ALL_COUNTED + Counter(function=4)
    assert _contents(hurt) == before
    restore()
    again = hurt.run()
    assert not again.faults, again.shown
    assert not again.counts, again.shown


def test_a_file_in_place_of_the_results_is_put_aside(hurt: HurtProject, plain: Ran) -> None:
    """Values are computed once more, into a new directory; it is told once."""
    hurt.run()
    results = hurt.cache / "results"
    results.rename(hurt.cache / "moved")
    results.touch(0o600)
    ran = hurt.run()
    check_unharmed(ran, plain)
    assert set(ran.faults) == {"something else in the place of a result"}, ran.shown
    assert ran.counts["fixture"] == ALL_COUNTED["fixture"], ran.shown
    again = hurt.run()
    assert not again.counts, again.shown
    check_recovered(hurt)


@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["cannot be written", "cannot be entered"])
def test_a_directory_without_permission(hurt: HurtProject, plain: Ran, mode: int) -> None:
    """A cache directory on which the user has no rights, as a container may leave it."""
    hurt.run()
    everything = [hurt.cache, *hurt.cache.rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(mode if path.is_dir() else mode & 0o400)
    try:
        ran = run_without_privileges(hurt)
    finally:
        for path in everything:
            path.chmod(modes[path])
    check_unharmed(ran, plain)
    assert ran.faults, ran.shown
    assert all("permission denied" in reason or "read-only" in reason for reason in ran.faults)
    check_recovered(hurt)


def test_a_project_that_cannot_be_written(hurt: HurtProject, plain: Ran) -> None:
    """A checkout that is mounted read-only: there is no place for the cache at all."""
    hurt.root.chmod(0o500)
    try:
        ran = run_without_privileges(hurt, "-p", "no:cacheprovider")
    finally:
        hurt.root.chmod(0o700)
    check_unharmed(ran, plain)
    check_told(ran, ["cache not usable: permission denied"])
    check_recovered(hurt)


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null", "/proc/taskcache", "test_suite.py"])
def test_a_place_that_is_no_place(hurt: HurtProject, plain: Ran, place: str) -> None:
    """``--cache-storage`` names something in which no directory can be made."""
    if not Path(place).parent.is_dir():
        pytest.skip(f"{place} is not there on this system")
    text = (hurt.root / "test_suite.py").read_text()
    ran = hurt.run(f"--cache-storage={place}")
    check_unharmed(ran, plain)
    assert sum(ran.faults.values()) == 1, ran.shown
    assert next(iter(ran.faults)).startswith("cache not usable: "), ran.shown
    assert (hurt.root / "test_suite.py").read_text() == text
    check_recovered(hurt)
