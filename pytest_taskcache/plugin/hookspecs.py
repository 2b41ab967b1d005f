"""Hooks that other plugins and conftests may implement; `extensions` asks them.

Declared under ``pytest_taskcache_``; a conftest's implementation counts for the tests beneath
it. Where nobody implements one, it costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest reads this file at each start
    from pytest_taskcache.policies import CachePolicy
    from pytest_taskcache.ports import Observer, Storage


@pytest.hookspec(firstresult=True)
def pytest_taskcache_policy(item: pytest.Item) -> CachePolicy | None:
    """A policy to be added to that of a test whose outcome may be cached, e.g. ``ENV("DB_URL")``
    for all tests that use a database. The first answer that is not None counts."""


@pytest.hookspec(firstresult=True)
def pytest_taskcache_do_not_replay(item: pytest.Item) -> str | None:
    """Why a test is to run though its outcome may be known, e.g. "updates its snapshots"; the
    reason is counted and shown. The first answer that is not None counts."""


@pytest.hookspec(firstresult=True)
def pytest_taskcache_storage(config: pytest.Config, url: str) -> Storage | None:
    """The storage that a URL names in this run's settings or policies, e.g. ``vault://team``: an
    object with the methods of `pytest_taskcache.ports.Storage`. What it returns is trusted only as
    far as its records are signed. The first answer that is not None counts; asked for each URL
    once, before the schemes that are built in. The command ``taskcache`` runs no plugins: it knows
    the storages of the entry points ``pytest_taskcache.storages``."""


@pytest.hookspec
def pytest_taskcache_observer(config: pytest.Config) -> Observer | None:
    """An object with ``notify(event)``, told of every decision, computation, commit and fault
    of this process (see `pytest_taskcache.model.event`). One that raises is told no more."""
