"""The shelf keeps small facts between sessions, and never gets in the way."""

from __future__ import annotations

from pathlib import Path

from pytest_taskcache.ports import Shelf
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage


def test_items_last_and_are_replaced(tmp_path: Path) -> None:
    """The next session finds what this one kept, section by section."""
    storage = LocalStorage(tmp_path / "cache")
    shelf: Shelf = storage.shelf
    shelf.write("digests", {"src/a.py": b"1", "b\udc80.py": b"\x00\xff"})
    shelf.write("digests", {"src/a.py": b"2"})
    shelf.write("digests", {})
    shelf.write("other", {"src/a.py": b"3"})
    storage.close()
    fresh = LocalStorage(tmp_path / "cache")
    assert fresh.shelf.read("digests") == {"src/a.py": b"2", "b\udc80.py": b"\x00\xff"}
    assert fresh.shelf.read("other") == {"src/a.py": b"3"}
    assert fresh.shelf.read("unknown") == {}
    fresh.close()


def test_failures_are_counted_and_swallowed(tmp_path: Path) -> None:
    """A shelf that cannot be used costs time, never a test run."""
    faults: list[str] = []
    (tmp_path / "cache").write_text("in the way")
    storage = LocalStorage(tmp_path / "cache", on_fault=faults.append)
    storage.shelf.write("digests", {"a": b"1"})
    assert storage.shelf.read("digests") == {}
    assert len(faults) == 2
    assert all("not a directory" in fault for fault in faults)
    storage.close()


def test_memory_has_one_too() -> None:
    """A cache without a path works the same."""
    shelf: Shelf = MemoryStorage().shelf
    shelf.write("digests", {"a": b"1"})
    assert shelf.read("digests") == {"a": b"1"}
