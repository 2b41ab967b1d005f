"""The storages of docs/own-storage.md pass the suite that the page tells to run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from remote_conformance import RemoteConformance

from pytest_taskcache.ports import Storage
from pytest_taskcache.testing.storages import MakeStorage, StorageConformance

PAGE = Path(__file__).parents[2] / "docs" / "own-storage.md"
ADAPTER, STORAGE, SUITE = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def name_in(code: str, name: str, **given: Any) -> Any:
    """What a block of the page calls so."""
    scope = {"__name__": "own_storage", **given}
    exec(compile(code, str(PAGE), "exec"), scope)
    return scope[name]


open_table: Callable[[str], Storage] = name_in(ADAPTER, "open_table")
open_tables: Callable[[str], Storage] = name_in(STORAGE, "open_tables")


class TestAdapterOfThePage(RemoteConformance):
    """Bytes by name; the place is the test's own temporary directory."""

    make_storage = name_in(SUITE, "TestTable", open_table=open_table).make_storage


class TestStorageOfThePage(StorageConformance):
    """Columns of one's own."""

    @pytest.fixture
    def make_storage(self, tmp_path: Path) -> MakeStorage:
        return lambda: open_tables(f"tables://{tmp_path}/cache.db")


def test_page_says_what_a_storage_is() -> None:
    """Both have all that the ports ask for."""
    assert isinstance(open_table("table://:memory:"), Storage)
    assert isinstance(open_tables("tables://:memory:"), Storage)
